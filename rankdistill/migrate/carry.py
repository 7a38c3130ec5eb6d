"""Keys of TRL's and the alignment-handbook's configurations as keys of ours.

Defaults are TRL 1.16's, made explicit wherever ours differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.errors import UserError
from rankdistill.migrate.carried import Carried
from rankdistill.migrate.keys import carry_data, carry_model
from rankdistill.trackers import TRACKERS, lacks_package

LEARNING_RATES = {"sft": 2e-5, "dpo": 1e-6, "orpo": 1e-6, "simpo": 1e-6, "cpo": 1e-6}
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")

LOSSES = {
    "sigmoid": "dpo", "hinge": "hinge_dpo", "ipo": "ipo", "robust": "robust_dpo",
    "sigmoid_norm": "dpo_normalised",
}  # fmt: skip
"""Objectives by TRL's loss_type."""

NOWHERE = {
    "results and their place are the run folder's": (
        "output_dir", "overwrite_output_dir", "run_name", "logging_dir", "logging_first_step",
        "logging_strategy", "log_level", "disable_tqdm",
    ),
    "a run's model is pushed by hand": (
        "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_token",
        "hub_model_revision",
    ),
    "what is evaluated, and when, is `eval` and the stages' own validation": (
        "do_eval", "do_train", "eval_strategy", "evaluation_strategy", "eval_steps",
        "per_device_eval_batch_size", "eval_on_start", "metric_for_best_model",
        "load_best_model_at_end", "eval_packing",
    ),
    "the last two checkpoints are kept, every save_steps": (
        "save_strategy", "save_total_limit", "save_only_model",
    ),
    "batches are made of tokens, without workers, packing or padding to choose": (
        "packing", "packing_strategy", "padding_free", "pad_to_multiple_of", "group_by_length",
        "dataset_num_proc", "dataloader_num_workers", "dataloader_pin_memory",
        "preprocessing_num_workers", "remove_unused_columns", "dataset_kwargs",
        "dataset_text_field",
    ),
    "the launcher's (accelerate, torchrun)": (
        "ddp_timeout", "ddp_find_unused_parameters", "deepspeed", "fsdp", "fsdp_config",
        "use_cpu", "local_rank",
    ),
    "checkpointing is transformers' own, without options": ("gradient_checkpointing_kwargs",),
    "the mean is over the tokens of a step on all devices, always": (
        "average_tokens_across_devices",
    ),
    "prompts are left out, and responses cut at their end": ("truncation_mode",),
    "schedules have no further options here": ("lr_scheduler_kwargs",),
    "the reference's log-probabilities are computed once beforehand, always": (
        "precompute_ref_log_probs", "precompute_ref_batch_size",
    ),
    "dropout is off where log-probabilities are compared, always": ("disable_dropout",),
}  # fmt: skip
"""Keys that need no place here, by the reason."""

MISSING = {
    "neftune_noise_alpha": "noise on embeddings is not there",
    "f_divergence_type": "only the reverse KL is there",
    "f_alpha_divergence_coef": "only the reverse KL is there",
    "ld_alpha": "weights by length are objective=dpo_normalised, or none",
    "use_weighting": "weighted DPO (WPO) is not there",
    "discopop_tau": "DiscoPOP is not there",
    "ref_model_name_or_path": "the reference is the student before this training",
    "ref_model": "the reference is the student before this training",
    "sync_ref_model": "the reference stays, but for round_reference=moved between rounds",
    "ref_model_mixup_alpha": "the reference stays",
    "ref_model_sync_steps": "the reference stays",
    "activation_offloading": "activations stay, or are recomputed",
    "router_aux_loss_coef": "no loss on a mixture's router is added",
    "eos_token": "the end of a turn is the chat template's",
    "model_init_kwargs": "name what is meant as a key of student",
    "tools": "there are no tools",
}


def carry(given: Mapping[str, Any], kind: str, devices: int = 1) -> Carried:
    """Overrides that come to the same as a configuration, and what has no place.

    Args:
        given: The configuration.
        kind: One of `source.KINDS`.
        devices: That it was written for: its batch sizes are of one.
    """
    carried = Carried(given)
    carry_model(carried, adapters_dropped=kind != "sft")
    group = "warmup" if kind == "sft" else "train"
    batch = _optimisation(carried, group, kind, devices)
    carry_data(carried, kind, batch)
    if kind == "dpo":
        _dpo(carried)
    elif kind == "orpo":
        carried.groups["objective"] = "orpo"
        carried.values["objective.odds_weight"] = carried.take("beta", 0.1)
    elif kind == "simpo":
        _simpo(carried)
    elif kind == "cpo":
        _cpo(carried)
    else:
        _sft(carried)
    _rest(carried)
    return carried


def _optimisation(carried: Carried, group: str, kind: str, devices: int) -> int:
    """The optimiser's keys; returns rows of one device at once."""
    take, values = carried.take, carried.values
    values[f"{group}.learning_rate"] = float(take("learning_rate", LEARNING_RATES[kind]))
    values[f"{group}.epochs"] = float(take("num_train_epochs", 3.0))
    at_once = int(take("per_device_train_batch_size", 8))
    step = at_once * int(take("gradient_accumulation_steps", 1)) * devices
    values[f"{group}.{'responses' if kind == 'sft' else 'prompts'}_per_step"] = step
    if devices == 1:
        carried.remarks.append(
            f"{step} rows per step are of one device: --devices N for a file that was meant for N."
        )
    values[f"{group}.lr_scheduler_type"] = _schedule(carried)
    values[f"{group}.warmup_ratio"] = _warmup_ratio(carried)
    values[f"{group}.weight_decay"] = float(take("weight_decay", 0.0))
    values[f"{group}.max_grad_norm"] = float(take("max_grad_norm", 1.0))
    values[f"{group}.gradient_checkpointing"] = bool(take("gradient_checkpointing", True))
    for key, default in (("logging_steps", 10), ("save_steps", 500)):
        value = take(key, default)
        if float(value) >= 1:
            values[f"{group}.{key}"] = int(value)
        else:
            carried.left[key] = "a share of all steps is not understood: give a number of steps"
    values["seed"] = int(take("seed", 42))
    values["report_to"] = _trackers(carried)
    if int(take("max_steps", -1)) > 0:
        carried.left["max_steps"] = "a training ends after its epochs: limit them, or the prompts"
    optimiser = str(take("optim", "adamw_torch_fused"))
    if optimiser not in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        carried.left["optim"] = f"the optimizer is AdamW in float32, not {optimiser}"
    return at_once


def _schedule(carried: Carried) -> str:
    name = str(carried.take("lr_scheduler_type", "linear"))
    if name in SCHEDULES:
        return name
    nearest = "cosine" if name.startswith("cosine") else "linear"
    carried.left["lr_scheduler_type"] = f"'{name}' is not there: {nearest} takes its place"
    return nearest


def _warmup_ratio(carried: Carried) -> float:
    ratio, steps = carried.take("warmup_ratio"), carried.take("warmup_steps", 0)
    if ratio is not None:
        return float(ratio)
    if float(steps) >= 1:
        carried.left["warmup_steps"] = (
            f"{steps} steps are a share of all steps here: set warmup_ratio to {steps} over them"
        )
        return 0.0
    return float(steps)


def _trackers(carried: Carried) -> list[str]:
    given = carried.take("report_to", [])
    names = [given] if isinstance(given, str) else list(given)
    known = [name for name in names if name in TRACKERS]
    unknown = [name for name in names if name not in (*TRACKERS, "none")]
    if unknown:
        carried.left["report_to"] = f"{', '.join(unknown)}: trackers are {', '.join(TRACKERS)}"
    carried.remarks += filter(None, map(lacks_package, known))
    return known


def _dpo(carried: Carried) -> None:
    take, values = carried.take, carried.values
    given = take("loss_type", ["sigmoid"])
    losses = [given] if isinstance(given, str) else list(given)
    weights = list(take("loss_weights", [1.0] * len(losses)))
    weight = dict(zip(losses, weights, strict=False))
    first = next((name for name in losses if name in LOSSES), None)
    objective = LOSSES.get(first or "sigmoid", "dpo")
    others = [name for name in losses if name not in (first, "sft")]
    if first is None and others:
        raise UserError(
            f"The loss_type {', '.join(others)} is no objective here: {', '.join(LOSSES)} are."
        )
    if others:
        carried.left["loss_type"] = f"{', '.join(others)}: no such objective beside {objective}"
    carried.groups["objective"] = objective
    default = 5.0 if objective == "dpo_normalised" and "beta" not in carried.given else 0.1
    values["objective.beta"] = float(take("beta", default))
    if objective == "ipo":
        values["objective.length_normalised"] = True
    _nll(carried, objective, weight.get("sft", 0.0) / (weight.get(first or "") or 1.0))
    smoothing = float(take("label_smoothing", 0.0))
    if objective in ("dpo", "dpo_normalised", "robust_dpo") and (
        smoothing or objective == "robust_dpo"
    ):
        values["objective.label_smoothing"] = smoothing
    elif smoothing:
        carried.left["label_smoothing"] = f"objective={objective} has none"
    if take("reference_free", False) and objective == "dpo":
        values["objective.reference_free"] = True


def _simpo(carried: Carried) -> None:
    """princeton-nlp's trainer, whose margin is a ratio to beta, or TRL's CPO trainer with it."""
    take, values = carried.take, carried.values
    carried.groups["objective"] = "simpo"
    beta = float(take("beta", 2.0 if "gamma_beta_ratio" in carried.given else 0.1))
    ratio, gamma = take("gamma_beta_ratio"), take("simpo_gamma")
    values["objective.beta"] = beta
    if ratio is not None:
        values["objective.gamma_beta_ratio"] = float(ratio)
    else:
        values["objective.gamma_beta_ratio"] = float(0.5 if gamma is None else gamma) / beta
    take("loss_type")
    weight = float(take("sft_weight", 0.0)) or float(take("cpo_alpha", 0.0))
    if weight:
        raise UserError(
            f"SimPO with a likelihood term (weight {weight:g}) is no objective here: set cpo_alpha "
            "and sft_weight to 0, or take objective=cpo, which has one."
        )


def _cpo(carried: Carried) -> None:
    loss = carried.take("loss_type", "sigmoid")
    if loss != "sigmoid":
        raise UserError(
            f"CPO's loss_type '{loss}' is no objective here: sigmoid is cpo, and simpo is simpo."
        )
    carried.groups["objective"] = "cpo"
    carried.values["objective.beta"] = float(carried.take("beta", 0.1))
    carried.values["objective.nll_weight"] = float(carried.take("cpo_alpha", 1.0))


def _nll(carried: Carried, objective: str, of_sft: float) -> None:
    """RPO's likelihood term: TRL's rpo_alpha, later the loss `sft` beside another."""
    weight = float(carried.take("rpo_alpha", 0.0)) or of_sft
    if not weight:
        return
    if objective.startswith("dpo"):
        carried.values["objective.nll_weight"] = weight
    else:
        key = "rpo_alpha" if "rpo_alpha" in carried.given else "loss_weights"
        carried.left[key] = f"objective={objective} has no likelihood term"


def _sft(carried: Carried) -> None:
    if not carried.take("assistant_only_loss", False):
        carried.remarks.append(
            "What the assistant says is learned, and nothing else; TRL learns every token of a "
            "conversation unless assistant_only_loss is true."
        )
    carried.leave("completion_only_loss", "what the assistant says is learned, always")
    loss = carried.take("loss_type", "nll")
    if loss not in ("nll", "chunked_nll"):
        carried.left["loss_type"] = f"'{loss}' is not there: the likelihood takes its place"


def _rest(carried: Carried) -> None:
    for reason, keys in NOWHERE.items():
        for key in keys:
            carried.leave(key, reason)
    for key, reason in MISSING.items():
        carried.leave(key, reason)
    for key in carried.unseen():
        carried.left[key] = "not known here"
