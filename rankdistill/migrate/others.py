"""Configurations of other tools, recognised so that none is read as if it were TRL's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError


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
