"""Checkpoints that a killed run left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME


def last_checkpoint(folder: str | Path) -> str | None:
    """The latest checkpoint in `folder` that was written to its end; None where there is none.

    The Trainer writes its state last, so a checkpoint with a readable state is complete; one that a
    kill interrupted is passed over.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and _is_complete(path):
            found.append((int(number[1]), str(path)))
    return max(found)[1] if found else None


def owes_evaluation(folder: str | Path) -> bool:
    """Whether a training that evaluates once per epoch has to before it starts, or goes on.

    Before its first step; and where the checkpoint is of an epoch's last step, as the evaluation at
    the epoch's end comes after it and may have been cut off with the rest.
    """
    checkpoint = last_checkpoint(folder)
    state = _state(Path(checkpoint)) if checkpoint else None
    if state is None:
        return True
    epoch, step = state.get("epoch") or 0.0, state["global_step"]
    evaluated = any("eval_loss" in row and row["step"] == step for row in state["log_history"])
    return abs(epoch - round(epoch)) < 1e-9 and not evaluated


def _is_complete(checkpoint: Path) -> bool:
    return _state(checkpoint) is not None


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
