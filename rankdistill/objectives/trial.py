"""An objective is tried on a small ranking before hours of work depend on it."""

from __future__ import annotations

from typing import Any

import torch

from rankdistill.errors import UserError
from rankdistill.objectives.candidates import Candidates, Objective, ObjectiveOutput

PROMPTS, RESPONSES = 2, 3


def try_objective(objective: Any) -> None:
    """Call it once, as the trainer will.

    Raises:
        UserError: it is no objective, reads a reference that it does not ask for, returns something
            else than one loss per prompt, or fails in whatever way.
    """
    name = type(objective).__name__
    if not isinstance(objective, Objective):
        raise UserError(
            f"{name} is no objective: it needs `__call__(candidates)`, and `needs_reference`, true "
            "or false, which says whether it reads candidates.reference_logps."
        )
    try:
        output = objective(_candidates(objective.needs_reference))
    except UserError:
        raise
    except Exception as error:
        without = "" if objective.needs_reference else " (without reference_logps)"
        raise UserError(
            f"{name} fails on a ranking of {RESPONSES} responses{without}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        ) from error
    if not isinstance(output, ObjectiveOutput) or output.loss.shape != (PROMPTS,):
        shape = getattr(getattr(output, "loss", None), "shape", None)
        has = f"a loss of shape {tuple(shape)}" if shape is not None else type(output).__name__
        raise UserError(
            f"{name} returned {has} for {PROMPTS} prompts: return an ObjectiveOutput with one loss "
            "a prompt, which the trainer averages."
        )


def _candidates(with_reference: bool) -> Candidates:
    logps = torch.tensor([[-6.0, -5.0, -9.0], [-4.0, -8.0, -7.0]], requires_grad=True)
    return Candidates(
        logps=logps,
        lengths=torch.full((PROMPTS, RESPONSES), 4),
        scores=torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, 1.0]], dtype=torch.float64),
        mask=torch.ones(PROMPTS, RESPONSES, dtype=torch.bool),
        ranks=torch.tensor([[0, 1, 2], [2, 0, 1]]),
        reference_logps=logps.detach() - 0.5 if with_reference else None,
    )
