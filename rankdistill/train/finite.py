"""A run stops before a step that is not finite changes the policy, and names the prompts."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.train.checkpoints import last_checkpoint
from rankdistill.train.groups import RankedGroup


def not_finite(parts: list[tuple[list[RankedGroup], Tensor]]) -> list[str]:
    """The ids of the prompts whose loss is NaN or infinite; `parts` are groups and losses [B]."""
    losses = torch.cat([values for groups, values in parts if groups] or [torch.zeros(0)])
    names = [group.prompt_id for groups, _ in parts for group in groups]
    return [name for name, good in zip(names, losses.isfinite().tolist(), strict=True) if not good]


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
