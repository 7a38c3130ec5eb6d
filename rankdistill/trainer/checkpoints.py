"""Checkpoints that a killed run left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

NUMBER = "0|[1-9][0-9]*"
"""A step or an iteration in the name of a folder."""


def complete_checkpoints(folder: str | Path, state: str = TRAINER_STATE_NAME) -> list[Path]:
    """The folders ``checkpoint-N`` that were written to their end, the latest last.

    Args:
        folder: Where they are.
        state: The JSON file that is written last, so that a checkpoint in which it can be read is
            complete; one that a kill interrupted is passed over.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        number = re.fullmatch(f"checkpoint-({NUMBER})", path.name)
        if number and _state(path / state) is not None:
            found.append((int(number[1]), path))
    return [path for _, path in sorted(found)]


def last_checkpoint(folder: str | Path) -> str | None:
    """The Trainer's latest complete checkpoint in `folder`; None where there is none."""
    found = complete_checkpoints(folder)
    return str(found[-1]) if found else None


def owes_evaluation(folder: str | Path) -> bool:
    """Whether a training that evaluates once per epoch has to before it starts, or goes on.

    Before its first step; and where the checkpoint is of an epoch's last step, as the evaluation at
    the epoch's end comes after it and may have been cut off with the rest.
    """
    checkpoint = last_checkpoint(folder)
    state = _state(Path(checkpoint) / TRAINER_STATE_NAME) if checkpoint else None
    if state is None:
        return True
    epoch, step = state.get("epoch") or 0.0, state["global_step"]
    evaluated = any("eval_loss" in row and row["step"] == step for row in state["log_history"])
    return abs(epoch - round(epoch)) < 1e-9 and not evaluated


def _state(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
