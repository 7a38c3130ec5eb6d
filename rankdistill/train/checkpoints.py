"""Checkpoints that a killed run left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

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


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
