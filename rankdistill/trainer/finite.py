"""What a training does where a loss or a gradient is no number: it stops and names the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.trainer.checkpoints import last_checkpoint


def not_finite(parts: Sequence[tuple[Sequence[Any], Tensor]]) -> list[str]:
    """The ids of the prompts whose loss is NaN or infinite.

    Args:
        parts: Rows and their losses [k]; where these are not one per row, all the rows are named.
    """
    names: list[str] = []
    for (rows, losses), finite in zip(parts, _all_finite(parts), strict=True):
        each = losses.isfinite().tolist() if not finite and len(losses) == len(rows) else None
        named = (
            rows if each is None else [r for r, good in zip(rows, each, strict=True) if not good]
        )
        names += [] if finite else [row.prompt_id for row in named]
    return names


def _all_finite(parts: Sequence[tuple[Sequence[Any], Tensor]]) -> list[bool]:
    """Of each part. One transfer from the device for all of them."""
    return torch.stack([losses.isfinite().all() for _, losses in parts]).tolist()


def stop(what: str, prompt_ids: list[str], trainer: Any) -> NoReturn:
    """Raises UserError on every process, with the prompts of all; every process must call it."""
    where = f"at step {trainer.state.global_step + 1}"
    checkpoint = last_checkpoint(trainer.args.output_dir)
    refuse_not_finite(what, where, gather_object(prompt_ids), checkpoint)


def refuse_not_finite(
    what: str, where: str, prompt_ids: Sequence[str], checkpoint: str | Path | None
) -> NoReturn:
    """Raises UserError.

    Args:
        what: That is not finite: ``loss``.
        where: ``at step 3``.
        prompt_ids: Of the rows that it is of.
        checkpoint: To continue from; None: there is none.
    """
    raise UserError(
        f"The {what} is not finite {where}, on the prompts {listed(prompt_ids)}: lower "
        "learning_rate or look at these rows, then continue from "
        f"{checkpoint or 'the start, since there is no checkpoint'}."
    )


def listed(prompt_ids: Sequence[str]) -> str:
    """The first eight of them, and how many more there are."""
    more = f" and {len(prompt_ids) - 8} more" if len(prompt_ids) > 8 else ""
    return ", ".join(prompt_ids[:8]) + more
