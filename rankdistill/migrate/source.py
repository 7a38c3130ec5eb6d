"""A configuration file of TRL or the alignment-handbook, and which trainer it is for; those of
other tools are recognised so that none is read as if it were TRL's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rankdistill.errors import UserError

KINDS = ("sft", "dpo", "orpo", "simpo", "cpo")
OTHERS = (
    "kto", "bco", "grpo", "ppo", "rloo", "reward", "gkd", "gold", "minillm", "nash", "xpo", "prm",
    "online",
)  # fmt: skip
"""Trainers whose configurations are not read."""

NAMES = ("output_dir", "hub_model_id", "run_name")
"""Keys whose values are often named after the trainer."""

TELLING = {
    "simpo": ("gamma_beta_ratio", "simpo_gamma"),
    "cpo": ("cpo_alpha",),
    "kto": ("desirable_weight", "undesirable_weight"),
    "bco": ("prompt_sample_size", "min_density_ratio", "max_density_ratio"),
    "xpo": ("alpha", "missing_eos_penalty"),
    "grpo": ("num_generations",),
    "dpo": ("precompute_ref_log_probs", "max_prompt_length", "loss_weights", "rpo_alpha",
            "f_divergence_type", "ld_alpha"),
    "sft": (
        "max_seq_length", "packing", "completion_only_loss", "assistant_only_loss",
        "dataset_text_field", "neftune_noise_alpha", "dataset_kwargs",
    ),
}  # fmt: skip
"""Keys by which a trainer is known, the more telling trainer first; many have a `beta`."""


def text_of(file: Path) -> str:
    """UserError where there is no such file, or none of text."""
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"'{file}' cannot be read ({reason}): give a YAML file.") from error


def read(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, no YAML, or no mapping of names to values.
    """
    text = text_of(file)
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise UserError(
            f"'{file}' is no YAML{where}: give a configuration of `trl sft`, `trl dpo` or of the "
            "alignment-handbook."
        ) from error
    if not isinstance(values, Mapping) or not values:
        raise UserError(
            f"'{file}' holds no mapping of names to values: give a configuration of `trl sft`, "
            "`trl dpo` or of the alignment-handbook."
        )
    return {str(key): value for key, value in values.items()}


class _Loader(yaml.SafeLoader):
    """YAML as TRL's command line reads it; 5e-7 is a number, which YAML 1.1 takes for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?([eE][-+]?\d+)$"),
    list("-+0123456789"),
)


def kind_of(file: Path, given: Mapping[str, Any]) -> str:
    """One of `KINDS`: by the keys that one trainer alone has, the file's path, or its names.

    Raises:
        UserError: none of them tells, or it is another trainer's.
    """
    own = [
        kind for kind in ("simpo", "cpo", "kto", "bco") if any(k in given for k in TELLING[kind])
    ]
    if given.get("loss_type") == "simpo" and own != ["simpo"]:
        own = ["simpo"]
    if own:
        return _carried(own[0], file)
    named = [" ".join(file.parts[-3:]), *(str(given.get(key, "")) for key in NAMES)]
    for text in named:
        words = set(re.split(r"[^a-z]+", text.lower()))
        other = next((other for other in OTHERS if other in words), None)
        if other is not None and (other == "online" or not words & set(KINDS)):
            return _carried(other, file)
        found = [kind for kind in KINDS if kind in words]
        if len(found) == 1:
            return found[0]
    told = [kind for kind, keys in TELLING.items() if any(key in given for key in keys)]
    if len(told) == 1:
        return _carried(told[0], file)
    if "model_name_or_path" not in given:
        raise UserError(
            f"'{file}' is no configuration of TRL or of the alignment-handbook, which names a "
            "model_name_or_path: write the command, with student.path and rank.path "
            "(docs/ranked_sets.md)."
        )
    raise UserError(
        f"'{file}' does not tell which trainer it is for: give --kind, one of {', '.join(KINDS)}."
    )


def _carried(kind: str, file: Path) -> str:
    """The kind. UserError: nothing of it is carried over."""
    if kind in KINDS:
        return kind
    name = "online_dpo" if kind == "online" else kind
    raise UserError(
        f"'{file}' seems to be for {name}, which is not carried over: only {', '.join(KINDS)} are "
        "(--kind says that it is one of them)."
    )


@dataclass(frozen=True)
class Tool:
    """A tool, how its files are known, and where its main keys have their like here."""

    name: str
    wrote: Callable[[Mapping[str, Any]], bool]
    """Whether a configuration is its."""
    keys: Mapping[str, str]
    """Keys of ours by keys of its own."""


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda given: all(name in given for name in names)


def _any(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda given: any(name in given for name in names)


def _nested(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda given: all(isinstance(given.get(name), Mapping) for name in names)


TOOLS = (
    Tool("LLaMA-Factory", _any(
        "stage", "finetuning_type", "pref_loss", "pref_beta", "cutoff_len", "lora_target"), {
        "model_name_or_path": "student.path", "dataset": "rank.path", "pref_loss": "objective",
        "pref_beta": "objective.beta", "lora_rank": "student.lora.r",
        "cutoff_len": "prompts.max_prompt_tokens and rank.max_response_tokens",
        "num_train_epochs": "train.epochs"}),
    Tool("AutoTrain", _has("task", "base_model"), {
        "base_model": "student.path", "data": "rank.path", "params": "train's keys"}),
    Tool("axolotl", _any("base_model", "micro_batch_size", "rl"), {
        "base_model": "student.path", "datasets": "rank.path", "rl": "objective",
        "lora_r": "student.lora.r", "num_epochs": "train.epochs",
        "sequence_len": "prompts.max_prompt_tokens and rank.max_response_tokens"}),
    Tool("ms-swift", lambda given: _any(
        "rlhf_type", "train_type", "tuner_type", "model_type", "swift_version")(given) or (
        isinstance(given.get("model"), str) and "dataset" in given), {
        "model": "student.path", "dataset": "rank.path", "rlhf_type": "objective",
        "beta": "objective.beta", "lora_rank": "student.lora.r",
        "num_train_epochs": "train.epochs"}),
    Tool("open-instruct", _any("dataset_mixer_list", "mixer_list", "dpo_loss_type", "dpo_beta"), {
        "model_name_or_path": "student.path", "dataset_mixer_list": "rank.path",
        "mixer_list": "rank.path", "dpo_loss_type": "objective", "dpo_beta": "objective.beta",
        "beta": "objective.beta", "num_train_epochs": "train.epochs"}),
    Tool("verl", _has("actor_rollout_ref"), {
        "actor_rollout_ref": "student.path and train's keys", "data": "prompts.path"}),
    Tool("NeMo RL", _nested("policy", "cluster"), {
        "policy": "student.path and train's keys", "dpo": "objective", "data": "rank.path"}),
    Tool("OpenRLHF", _any("pretrain", "ref_pretrain", "actor_num_nodes", "prompt_data"), {
        "pretrain": "student.path", "dataset": "rank.path", "beta": "objective.beta",
        "max_len": "prompts.max_prompt_tokens and rank.max_response_tokens",
        "max_epochs": "train.epochs", "train_batch_size": "train.prompts_per_step"}),
    Tool("torchtune", lambda given: any(
        isinstance(value, Mapping) and "_component_" in value for value in given.values()), {
        "model": "student.path", "dataset": "rank.path", "loss": "objective",
        "epochs": "train.epochs"}),
    Tool("HALOs", lambda given: _nested("model", "loss")(given) or _has("trainer", "dataloader")(
        given), {
        "model.name_or_path": "student.path", "datasets": "rank.path", "loss": "objective",
        "loss.beta": "objective.beta", "n_epochs": "train.epochs"}),
    Tool("DeepSpeed", _any("zero_optimization"), {
        "zero_optimization": "in the file of `accelerate config`"}),
    Tool("accelerate", _any("compute_environment", "distributed_type"), {
        "num_processes": "accelerate launch --num_processes N -m rankdistill ..",
        "the file": "accelerate launch --config_file FILE -m rankdistill .."}),
)  # fmt: skip


def refuse_others(file: Path, given: Mapping[str, Any]) -> None:
    """Refuse another tool's configuration.

    Raises:
        UserError: by its name, with the keys of ours that take the place of its main ones.
    """
    for tool in TOOLS:
        if tool.wrote(given):
            keys = ", ".join(
                f"{theirs} is {ours}"
                for theirs, ours in tool.keys.items()
                if theirs.partition(".")[0] in given or theirs == "the file"
            )
            raise UserError(
                f"'{file}' is a configuration of {tool.name}, which is not carried over: write the "
                f"command, where {keys or 'student.path and rank.path are needed'}."
            )
