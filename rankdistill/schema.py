"""The schema of every Hydra group: names and types. The values, and what they mean, are in `conf/`.

A key that is not here, or a value of another type, is refused while Hydra composes the
configuration, inside recipes too. This module imports nothing heavy, so a mistake is told at once.
Objectives have no schema here: the frozen dataclass that `_target_` names is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import Amount, above_zero, amounts, at_least, require, within

Precision = Enum("Precision", ["float32", "bfloat16", "float16", "auto", "stored"])
Quantization = Enum("Quantization", ["int8", "nf4"])
LayerChoice = Enum("LayerChoice", ["influence", "evenly_spaced", "first"])

Aggregate = Enum("Aggregate", ["mean", "borda", "bradley_terry", "elo"])
Select = Enum("Select", ["all", "best_worst", "best_random", "top_k", "random_k", "spread"])
RoundReference = Enum("RoundReference", ["fixed", "moved"])


@dataclass
class DecontaminateConfig:
    against: list[str]
    ngram: int

    def __post_init__(self) -> None:
        at_least("prompts.decontaminate", self, 4, "ngram")


@dataclass
class Fractions:
    train: float
    validation: float
    heldout: float

    def __post_init__(self) -> None:
        within("prompts.splits", self, "[0, 1]", "train", "validation", "heldout")


@dataclass
class Limits:
    train: int | None
    validation: int | None
    heldout: int | None

    def __post_init__(self) -> None:
        at_least("prompts.limit", self, 0, "train", "validation", "heldout")


@dataclass
class AugmentConfig:
    requests: int
    evolved: float
    rouge_l: float
    least_words: int
    most_words: int

    def __post_init__(self) -> None:
        at_least("prompts.augment", self, 0, "requests", "least_words")
        at_least("prompts.augment", self, self.least_words, "most_words")
        within("prompts.augment", self, "[0, 1]", "evolved", "rouge_l")


@dataclass
class InstructionsConfig:
    kinds: list[str]
    kept_out: list[str]
    demands_per_prompt: list[int]
    kept_out_share: float
    plain_share: float
    both_sides: bool
    seed: int

    def __post_init__(self) -> None:
        at_least("prompts.instructions", self, 0, "seed")
        within("prompts.instructions", self, "[0, 1]", "kept_out_share", "plain_share")


@dataclass
class PromptsConfig:
    path: Any
    """A set, or several: see `amounts`."""
    column: str | None
    response_column: str | None
    max_prompt_tokens: int
    splits: Fractions
    limit: Limits
    augment: AugmentConfig
    keep: list[str] = field(default_factory=list)
    split_by: str | None = None
    split_column: str | None = "split"
    strict: bool = False
    instructions: InstructionsConfig | None = None
    decontaminate: DecontaminateConfig = field(default_factory=lambda: DecontaminateConfig([], 13))

    def __post_init__(self) -> None:
        at_least("prompts", self, 1, "max_prompt_tokens")
        if self.path is not None:  # a ranked set may bring the prompts
            _ = self.sets

    @property
    def sets(self) -> dict[str, Amount]:
        """How much is taken of which set."""
        return amounts("prompts.path", self.path)

    @property
    def named(self) -> str:
        """The sets, for the person."""
        return " and ".join(self.sets)


@dataclass
class TeacherConfig:
    path: str
    precision: Precision
    quantization: Quantization | None
    attn_implementation: str
    trust_remote_code: bool
    chat_template_kwargs: Any = None
    """None, or values by name: see `rankdistill.models.template_arguments`."""
    prompt_template: str | None = None
    system_prompt: str | None = None


MOST_LORA_RANK = 16_384
"""No layer is as wide that a rank above it would be less than the layer itself."""


@dataclass
class LoRAConfig:
    r: int | None
    alpha: float
    dropout: float
    target_modules: Any
    """A string or a list of strings."""

    def __post_init__(self) -> None:
        check_lora(self)


def check_lora(lora: Any) -> None:
    """UserError: a key of adapters is out of its range."""
    within("student.lora", lora, f"[1, {MOST_LORA_RANK}]", "r")
    above_zero("student.lora", lora, "alpha")
    within("student.lora", lora, "[0, 1)", "dropout")
    names = lora.target_modules
    named = isinstance(names, str) or (
        isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    )
    key = "student.lora.target_modules"
    require(key, names, bool(names) and named, "all-linear, or names of layers")


@dataclass
class StudentConfig:
    path: str | None
    keep_layers: int | None
    layer_choice: LayerChoice
    precision: Precision
    lora: LoRAConfig
    quantization: Quantization | None
    attn_implementation: str
    use_liger_kernel: bool
    trust_remote_code: bool
    chat_template: str | None = None
    chat_template_kwargs: Any = None
    """As of the teacher."""

    def __post_init__(self) -> None:
        at_least("student", self, 1, "keep_layers")


@dataclass
class VLLMConfig:
    dtype: str
    gpu_memory_utilization: float
    max_num_seqs: int | None

    def __post_init__(self) -> None:
        within("sample.vllm", self, "(0, 1]", "gpu_memory_utilization")
        at_least("sample.vllm", self, 1, "max_num_seqs")


@dataclass
class TransformersConfig:
    batch_size: int

    def __post_init__(self) -> None:
        at_least("sample.transformers", self, 1, "batch_size")


@dataclass
class EndpointConfig:
    urls: list[str]
    model: str | None
    revision: str | None
    key_variable: str
    chat_template_kwargs: Any
    """As of the teacher."""
    max_response_tokens: int | None
    concurrency: int
    requests_per_minute: float | None
    timeout_s: float
    retries: int
    dollars_per_million_input_tokens: float
    dollars_per_million_output_tokens: float

    def __post_init__(self) -> None:
        group = "sample.endpoint"
        at_least(group, self, 1, "concurrency", "max_response_tokens")
        dollars = ("dollars_per_million_input_tokens", "dollars_per_million_output_tokens")
        at_least(group, self, 0, "retries", *dollars)
        above_zero(group, self, "timeout_s", "requests_per_minute")
        if bool(self.urls) != (self.model is not None):
            missing = "urls, such as [http://127.0.0.1:8000/v1]" if self.model else "model"
            raise UserError(
                f"sample.endpoint is a model at some URLs, of which one is missing: give "
                f"{group}.{missing}."
            )


@dataclass(frozen=True)
class SamplingParameters:
    """How responses are drawn. Order of the filters, as in vLLM: temperature, top-k, top-p.

    Args:
        responses_per_prompt: K, at least 1. The first K responses do not depend on K.
        temperature: 0 takes the most likely token, and all K responses are the same.
        top_p: Smallest set of most likely tokens whose probability reaches it; 1 is off.
        top_k: Number of most likely tokens; 0 is off.
        max_response_tokens: Responses are cut after it and marked `length`.

    Raises:
        UserError: a value outside its range.
    """

    GROUP: ClassVar[str] = "sample"
    """Where the keys are in the configuration, for a message."""

    responses_per_prompt: int
    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int | None

    def __post_init__(self) -> None:
        at_least(self.GROUP, self, 1, "responses_per_prompt", "max_response_tokens")
        at_least(self.GROUP, self, 0, "temperature", "top_k")
        within(self.GROUP, self, "(0, 1]", "top_p")


@dataclass(frozen=True)
class SampleConfig(SamplingParameters):
    sampler: Any
    """A name of `rankdistill.sample.NAMES`, or what names a `Sampler` by its `_target_`."""
    max_response_tokens: int
    writers: Any
    """None, or a list of names, or the number of responses by name: see `counts_of_writers`."""
    teacher_response: bool
    teacher_revision: bool
    rule_rewrite: bool
    from_cluster: bool
    tensor_parallel: int
    data_parallel: int | None
    endpoint: EndpointConfig
    vllm: VLLMConfig
    transformers: TransformersConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("sample", self, 1, "tensor_parallel", "data_parallel")
        _check_writers(self)

    @property
    def counts_of_writers(self) -> dict[str, int]:
        """How many responses to each prompt are whose, in the order of `writers`."""
        if self.writers is None:
            return {"student": self.responses_per_prompt}
        if isinstance(self.writers, Mapping):
            return dict(self.writers)
        return dict.fromkeys(self.writers, 1)


def _check_writers(sample: SampleConfig) -> None:
    writers, said = sample.writers, "as in 'sample.writers={teacher: 1, student: 3}'"
    if writers is None:
        return
    if not isinstance(writers, list | Mapping) or not all(
        isinstance(name, str) and name.strip() for name in writers
    ):
        raise UserError(f"sample.writers is {writers}: give names, or numbers by name, {said}.")
    if isinstance(writers, list) and len(set(writers)) < len(writers):
        raise UserError(f"sample.writers names a writer twice: give numbers by name, {said}.")
    for name, count in sample.counts_of_writers.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(
                f"sample.writers.{name} is {count}; it must be a number from 1, {said}."
            )
    if "endpoint" in writers and sample.endpoint.model is None:
        raise UserError(
            "sample.writers names endpoint, which is none: give sample.endpoint.urls and "
            "sample.endpoint.model."
        )
    if sum(sample.counts_of_writers.values()) < 2:
        raise UserError(f"sample.writers write one response to a prompt; give two or more, {said}.")
    if sample.teacher_response:
        raise UserError(
            "sample.writers says who writes: name teacher in it, and set "
            "sample.teacher_response=false."
        )


@dataclass
class ClusterConfig:
    address: str | None
    min: int
    max: int
    cores: int
    gpus: int | None

    def __post_init__(self) -> None:
        at_least("cluster", self, 1, "min", "cores")
        at_least("cluster", self, self.min, "max")
        at_least("cluster", self, 0, "gpus")


@dataclass
class RankConfig:
    path: Any
    """None, or sets as of the prompts."""
    score_column: str | None
    responses_per_prompt: int | None
    max_response_tokens: int | None
    tie_margin: float
    select: Select
    top_k: int
    aggregate: Aggregate = Aggregate.mean
    weights: Any = None
    """None, or a number per scorer; a typed dict can't be overridden as a whole."""
    length_debias: bool = False
    min_agreement: float | None = None
    rescore: bool = False
    placebo: bool = False
    columns: Any = None
    """None, or names of columns, see `rankdistill.rank.preferences.PairColumns`."""
    max_length_gap: int | None = None

    @property
    def sets(self) -> dict[str, Amount]:
        """How much is taken of which existing set; nothing where there is none."""
        return {} if self.path is None else amounts("rank.path", self.path)

    @property
    def named(self) -> str:
        """The existing sets, for the person; empty where there is none."""
        return " and ".join(self.sets)

    def __post_init__(self) -> None:
        _ = self.sets
        at_least("rank", self, 0, "max_length_gap")
        at_least("rank", self, 2, "top_k", "responses_per_prompt")
        at_least("rank", self, 1, "max_response_tokens")
        at_least("rank", self, 0, "tie_margin")
        within("rank", self, "[-1, 1]", "min_agreement")


@dataclass
class RetrievalConfig:
    corpus: str
    queries: str | None
    encoder: str | None
    passages: int
    train_passages: int
    max_passage_tokens: int
    request: str
    timed_queries: int

    def __post_init__(self) -> None:
        at_least("retrieval", self, 2, "passages", "train_passages", "max_passage_tokens")
        at_least("retrieval", self, 1, "timed_queries")
        if "{passage}" not in self.request:
            raise UserError("retrieval.request has no {passage}: say where the passage is put.")
