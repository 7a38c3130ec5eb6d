"""A configuration file of TRL or the alignment-handbook, and which trainer it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise UserError(
            f"'{file}' is no YAML{where}: give a configuration of `trl sft`, `trl dpo` or of the "
            "alignment-handbook."
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise UserError(
            f"'{file}' holds no mapping of names to values: give a configuration of `trl sft`, "
            "`trl dpo` or of the alignment-handbook."
        )
    return {str(key): value for key, value in found.items()}


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
