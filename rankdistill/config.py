"""The schema of every Hydra group: names and types. The values, and what they mean, are in `conf/`.

A key that is not here, or a value of another type, is refused while Hydra composes the
configuration, inside recipes too. This module imports nothing heavy, so a mistake is told at once.
Objectives have no schema here: the frozen dataclass that `_target_` names is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from rankdistill.warmup import schema as warmup

Layout = Enum("Layout", ["shared", "packed", "padded"])
Precision = Enum("Precision", ["float32", "bfloat16", "float16", "auto"])
Quantization = Enum("Quantization", ["int8", "nf4"])
LayerChoice = Enum("LayerChoice", ["influence", "evenly_spaced", "first"])
SamplerName = Enum("SamplerName", ["auto", "vllm", "transformers"])
Aggregate = Enum("Aggregate", ["mean", "borda", "bradley_terry", "elo"])
JudgeMode = Enum("JudgeMode", ["pointwise", "pairwise", "tournament", "listwise"])
Select = Enum("Select", ["all", "best_worst", "best_random", "top_k", "random_k", "spread"])
RewardLossName = Enum("RewardLossName", ["pairs", "plackett_luce"])
Advantage = Enum("Advantage", ["gae", "group"])
Critic = Enum("Critic", ["head", "separate"])
Cut = Enum("Cut", ["terminal", "bootstrap"])
RoundReference = Enum("RoundReference", ["fixed", "moved"])
Backend = Enum("Backend", ["hf", "vllm"])
Checker = Enum("Checker", ["lm_eval", "own"])
Schedule = Enum("Schedule", ["linear", "cosine", "constant", "constant_with_warmup"])


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
    instructions: InstructionsConfig | None = None


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
    max_num_seqs: int


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
class LikelihoodConfig:
    _target_: str
    through: str
    per_token: bool
    contrast: str | None
    max_batch_tokens: int


@dataclass
class JudgeConfig:
    _target_: str
    mode: JudgeMode
    aspects: list[str]
    prompt: str | None
    endpoint: str | None
    model: str | None
    key_variable: str
    explain: bool
    expected_score: bool
    shuffles: int
    temperature: float
    max_answer_tokens: int
    concurrency: int
    requests_per_minute: float | None
    timeout_s: float
    retries: int
    dollars_per_million_input_tokens: float
    dollars_per_million_output_tokens: float
    dtype: str
    gpu_memory_utilization: float
    tensor_parallel_size: int


@dataclass
class VerifierConfig:
    _target_: str
    rule: str
    column: str
    pattern: str | None


@dataclass
class RewardModelConfig:
    _target_: str
    model: str
    precision: Precision
    attn_implementation: str
    trust_remote_code: bool
    max_tokens: int
    max_batch_tokens: int


@dataclass
class EnsembleConfig:
    _target_: str
    _convert_: str
    scorers: dict[str, Any]


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
    """None, or a number a scorer; a typed dict can't be overridden as a whole."""
    length_debias: bool = False
    min_agreement: float | None = None
    rescore: bool = False
    placebo: bool = False


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


@dataclass
class TrainConfig:
    layout: Layout
    max_batch_tokens: int
    prompts_per_step: int
    learning_rate: float | None
    learning_rate_grid: list[float]
    learning_rate_scale: float
    epochs: float
    lr_scheduler_type: Schedule
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool | str
    logging_steps: int
    save_steps: int


@dataclass
class RolloutConfig:
    prompts: int
    responses_per_prompt: int
    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int | None


@dataclass
class PPOTrainConfig(TrainConfig):
    rollout: RolloutConfig
    ppo_epochs: int
    advantage: Advantage
    critic: Critic
    gamma: float
    lam: float
    whiten_advantages: bool
    whiten_rewards: bool
    clip: float
    value_clip: float | None
    value_weight: float
    kl_coef: float
    kl_target: float | None
    kl_horizon: int
    cut: Cut
    missing_eos_penalty: float
    stop_kl: float | None
    max_kl: float | None
    sampler_tolerance: float


@dataclass
class RewardConfig:
    backbone: str
    only: bool
    min_accuracy: float
    loss: RewardLossName
    margin: float
    centering: float
    learning_rate: float
    epochs: float
    prompts_per_step: int
    max_batch_tokens: int
    lr_scheduler_type: Schedule
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool | str
    logging_steps: int
    save_steps: int


@dataclass
class QuickConfig:
    version: int
    responses_per_prompt: int
    sharpening_control: bool
    max_batch_tokens: int
    read_prompts: int | None = None


@dataclass
class VerifiedConfig:
    version: int
    greedy: bool
    prompted: bool
    best_of: list[int]
    best_of_prompts: int
    guard_prompts: int
    max_batch_tokens: int


@dataclass
class RankedConfig:
    version: int
    length_match: float
    max_batch_tokens: int


@dataclass
class HarnessConfig:
    """What the tasks of lm-eval share; see `eval/gsm8k.yaml`."""

    _target_: str
    version: int
    path: str | None
    shots: int
    limit: int | None
    chat_template: bool
    max_response_tokens: int | None
    backend: Backend
    batch_size: int


@dataclass
class IFEvalConfig(HarnessConfig):
    checker: Checker


@dataclass
class EndpointConfig:
    """A judge behind an OpenAI-compatible endpoint."""

    endpoint: str | None
    model: str | None
    key_variable: str
    temperature: float
    max_answer_tokens: int
    concurrency: int
    requests_per_minute: float | None
    timeout_s: float
    retries: int


@dataclass
class MTBenchConfig:
    _target_: str
    _convert_: str
    version: int
    questions: str | None
    references: str | None
    prompts: str | None
    limit: int | None
    max_response_tokens: int
    judge: EndpointConfig


@dataclass
class AlpacaEvalConfig:
    _target_: str
    _convert_: str
    version: int
    reference: str | None
    prompt: str | None
    limit: int | None
    temperature: float
    max_response_tokens: int
    judge: EndpointConfig


@dataclass
class PairsConfig:
    _target_: str
    version: int
    path: str | None
    limit: int | None
    reward_model: str | None
    max_tokens: int
    max_batch_tokens: int


@dataclass
class Config:
    """A whole run. The groups are typed by their own schema."""

    prompts: Any
    student: Any
    teacher: Any
    warmup: Any
    sample: Any
    score: Any
    rank: Any
    reward: Any
    objective: Any
    train: Any
    eval: Any
    base: str | None
    rounds: int
    round_reference: RoundReference
    seed: int
    report_to: Any
    """A name or a list of names."""
    retrieval: Any = None


SCHEMAS: dict[str, type] = {
    "prompts": PromptsConfig,
    "teacher": TeacherConfig,
    "student": StudentConfig,
    "warmup/none": warmup.NoWarmupOptions,
    "warmup/logits": warmup.LogitsOptions,
    "warmup/sft": warmup.SFTOptions,
    "warmup/hidden": warmup.HiddenOptions,
    "warmup/on_policy": warmup.OnPolicyOptions,
    "warmup/cross_tokenizer": warmup.CrossTokenizerOptions,
    "sample": SampleConfig,
    "score/likelihood": LikelihoodConfig,
    "score/judge": JudgeConfig,
    "score/ensemble": EnsembleConfig,
    "score/verifier": VerifierConfig,
    "score/reward_model": RewardModelConfig,
    "rank": RankConfig,
    "retrieval": RetrievalConfig,
    "reward": RewardConfig,
    "train": TrainConfig,
    "train/ppo": PPOTrainConfig,
    "eval/quick": QuickConfig,
    "eval/ranked": RankedConfig,
    "eval/verified": VerifiedConfig,
    "eval/gsm8k": HarnessConfig,
    "eval/hellaswag": HarnessConfig,
    "eval/ifeval": IFEvalConfig,
    "eval/mt_bench": MTBenchConfig,
    "eval/alpaca_eval": AlpacaEvalConfig,
    "eval/pairs": PairsConfig,
}


PLUG_INS = ("warmup", "score", "eval")
"""Groups whose options name a class, `_target_`, beside its keys."""


def register_schemas() -> None:
    """Offer the schemas to the defaults lists in `conf/` as `/schema/<name>@_here_`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for path, kind in SCHEMAS.items():
        group, _, name = f"schema/{path}".rpartition("/")
        store.store(group=group, name=name, node=_schema(kind, path.split("/")[0] in PLUG_INS))


def _schema(kind: type, plug_in: bool) -> DictConfig:
    """The names and types of a dataclass for Hydra; the values are those of the YAML files.

    OmegaConf makes a frozen dataclass read-only, and gives it no place for what Hydra builds it by:
    `_target_`, and `_convert_` where a key holds other keys.
    """
    node = OmegaConf.structured(kind)
    OmegaConf.set_readonly(node, False)
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return node
    types = get_type_hints(kind)
    with open_dict(node):
        for own in fields(kind):
            nested = is_dataclass(types[own.name])
            node[own.name] = _schema(types[own.name], plug_in) if nested else MISSING
            if plug_in and (nested or get_origin(types[own.name]) is dict):
                node["_convert_"] = MISSING
        if plug_in:
            node["_target_"] = MISSING
    return node
