"""Checkpoints that a killed run left behind.

And what a training does where a loss or a gradient is no number: it stops and names the prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME

from rankdistill.errors import Diverged
from rankdistill.store.files import read_json

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
        if number and read_json(path / state) is not None:
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
    state = read_json(Path(checkpoint) / TRAINER_STATE_NAME) if checkpoint else None
    if state is None:
        return True
    epoch, step = state.get("epoch") or 0.0, state["global_step"]
    evaluated = any("eval_loss" in row and row["step"] == step for row in state["log_history"])
    return abs(epoch - round(epoch)) < 1e-9 and not evaluated


def not_finite(parts: Sequence[tuple[Sequence[Any], Tensor]]) -> list[str]:
    """The ids of the prompts whose loss is NaN or infinite.

    Args:
        parts: Rows and their losses [k]; where these are not one per row, all the rows are named.
    """
    names: list[str] = []
    for rows, losses in parts:
        finite = losses.isfinite().tolist()
        if len(finite) != len(rows):
            finite = [all(finite)] * len(rows)
        names += [row.prompt_id for row, good in zip(rows, finite, strict=True) if not good]
    return names


def stop(what: str, prompt_ids: list[str], trainer: Any) -> NoReturn:
    """Raises Diverged on every process, with the prompts of all; every process must call it."""
    where = f"at step {trainer.state.global_step + 1}"
    checkpoint = last_checkpoint(trainer.args.output_dir)
    refuse_not_finite(what, where, gather_object(prompt_ids), checkpoint)


def refuse_not_finite(
    what: str, where: str, prompt_ids: Sequence[str], checkpoint: str | Path | None
) -> NoReturn:
    """Raises Diverged.

    Args:
        what: That is not finite: ``loss``.
        where: ``at step 3``.
        prompt_ids: Of the rows that it is of.
        checkpoint: To continue from; None: there is none.
    """
    raise Diverged(
        f"The {what} is not finite {where}, on the prompts {listed(prompt_ids)}: lower "
        "learning_rate or look at these rows, then continue from "
        f"{checkpoint or 'the start, since there is no checkpoint'}."
    )


def listed(prompt_ids: Sequence[str]) -> str:
    """The first eight of them, and how many more there are."""
    more = f" and {len(prompt_ids) - 8} more" if len(prompt_ids) > 8 else ""
    return ", ".join(prompt_ids[:8]) + more
