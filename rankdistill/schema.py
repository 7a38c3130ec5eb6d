"""The schema of every Hydra group: names and types. The values, and what they mean, are in `conf/`.

A key that is not here, or a value of another type, is refused while Hydra composes the
configuration, inside recipes too. This module imports nothing heavy, so a mistake is told at once.
Objectives have no schema here: the frozen dataclass that `_target_` names is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rankdistill.errors import UserError
from rankdistill.fields import at_least, within

Precision = Enum("Precision", ["float32", "bfloat16", "float16", "auto"])
Quantization = Enum("Quantization", ["int8", "nf4"])
LayerChoice = Enum("LayerChoice", ["influence", "evenly_spaced", "first"])
SamplerName = Enum("SamplerName", ["auto", "vllm", "transformers"])
Aggregate = Enum("Aggregate", ["mean", "borda", "bradley_terry", "elo"])
Select = Enum("Select", ["all", "best_worst", "best_random", "top_k", "random_k", "spread"])
RoundReference = Enum("RoundReference", ["fixed", "moved"])


@dataclass
class Fractions:
    train: float
    validation: float
    heldout: float


@dataclass
class Limits:
    train: int | None
    validation: int | None
    heldout: int | None


@dataclass
class AugmentConfig:
    requests: int
    evolved: float
    rouge_l: float
    least_words: int
    most_words: int

    def __post_init__(self) -> None:
        at_least("prompts.augment", self, 0, "requests")
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


@dataclass
class PromptsConfig:
    path: str
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

    def __post_init__(self) -> None:
        at_least("prompts", self, 1, "max_prompt_tokens")


@dataclass
class TeacherConfig:
    path: str
    precision: Precision
    quantization: Quantization | None
    attn_implementation: str
    trust_remote_code: bool


@dataclass
class LoRAConfig:
    r: int | None
    alpha: float
    dropout: float
    target_modules: Any
    """A string or a list of strings."""


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


@dataclass
class VLLMConfig:
    dtype: str
    gpu_memory_utilization: float
    max_num_seqs: int | None


@dataclass
class TransformersConfig:
    batch_size: int


@dataclass
class SampleConfig:
    sampler: SamplerName
    responses_per_prompt: int
    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int
    teacher_response: bool
    teacher_revision: bool
    rule_rewrite: bool
    from_cluster: bool
    tensor_parallel: int
    data_parallel: int
    vllm: VLLMConfig
    transformers: TransformersConfig


@dataclass
class RankConfig:
    path: str | None
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

    def __post_init__(self) -> None:
        at_least("rank", self, 2, "top_k", "responses_per_prompt")
        at_least("rank", self, 1, "max_response_tokens")
        at_least("rank", self, 0, "tie_margin")


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
