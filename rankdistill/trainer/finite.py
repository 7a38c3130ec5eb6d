"""A run stops before a step that is not finite changes the policy, and names the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.trainer.batches import Row
from rankdistill.trainer.checkpoints import last_checkpoint


def not_finite(parts: Sequence[tuple[Sequence[Row], Tensor]]) -> list[str]:
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


def _all_finite(parts: Sequence[tuple[Sequence[Row], Tensor]]) -> list[bool]:
    """Of each part. One transfer from the device for all of them."""
    return torch.stack([losses.isfinite().all() for _, losses in parts]).tolist()


def stop(what: str, prompt_ids: list[str], trainer: Any) -> NoReturn:
    """Raises UserError on every process, with the prompts of all; every process must call it."""
    names: list[str] = gather_object(prompt_ids)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    checkpoint = last_checkpoint(trainer.args.output_dir)
    raise UserError(
        f"The {what} is not finite at step {trainer.state.global_step + 1}, on the prompts "
        f"{', '.join(names[:8])}{more}: lower learning_rate or look at these rows, then continue "
        f"from {checkpoint or 'the start, since there is no checkpoint'}."
    )
