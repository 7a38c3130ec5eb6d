"""A configuration file of TRL or the alignment-handbook, and which trainer it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rankdistill.errors import UserError

KINDS = ("sft", "dpo", "orpo")
OTHERS = ("kto", "grpo", "ppo", "rloo", "reward", "gkd", "cpo", "online_dpo")
"""Trainers whose configurations are not read."""

NAMES = ("output_dir", "hub_model_id", "run_name")
"""Keys whose values are often named after the trainer."""

TELLING = {
    "dpo": ("precompute_ref_log_probs", "max_prompt_length", "loss_weights", "beta", "rpo_alpha"),
    "sft": (
        "max_seq_length", "packing", "completion_only_loss", "assistant_only_loss",
        "dataset_text_field", "neftune_noise_alpha", "dataset_kwargs",
    ),
}  # fmt: skip
"""Keys that one trainer has and another has not."""


def read(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, no YAML, or no mapping of names to values.
    """
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"'{file}' cannot be read ({reason}): give a YAML file.") from error
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
    """`sft`, `dpo` or `orpo`: by the file's path, its names, or keys that one trainer alone has.

    Raises:
        UserError: none of them tells, or it is another trainer's.
    """
    named = [" ".join(file.parts[-3:]), *(str(given.get(key, "")) for key in NAMES)]
    for text in named:
        words = set(re.split(r"[^a-z]+", text.lower()))
        for other in OTHERS:
            if other in words and not words & set(KINDS):
                raise UserError(
                    f"'{file}' seems to be for {other}, which is not carried over: only sft, dpo "
                    "and orpo are (--kind says that it is one of them)."
                )
        found = [kind for kind in ("orpo", "dpo", "sft") if kind in words]
        if len(found) == 1:
            return found[0]
    told = [kind for kind, keys in TELLING.items() if any(key in given for key in keys)]
    if len(told) == 1:
        return told[0]
    raise UserError(
        f"'{file}' does not tell which trainer it is for: give --kind sft, --kind dpo or --kind "
        "orpo."
    )
