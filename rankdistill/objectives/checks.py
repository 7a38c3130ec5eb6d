"""Range checks of the objectives' arguments, and a trial before hours of work depend on one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

from rankdistill.errors import UserError, suggest
from rankdistill.objectives.candidates import Candidates, Objective, ObjectiveOutput


def check_positive(objective: object, argument: str) -> None:
    """Raises UserError unless the argument is a finite number above 0."""
    value = getattr(objective, argument)
    if not (_is_number(value) and value > 0):
        _refuse(objective, argument, "a number above 0", value)


def check_not_negative(objective: object, *arguments: str) -> None:
    """Raises UserError unless each argument is a finite number, 0 or above."""
    for argument in arguments:
        value = getattr(objective, argument)
        if not (_is_number(value) and value >= 0):
            _refuse(objective, argument, "a number, 0 or above", value)


def check_number(objective: object, argument: str) -> None:
    """Raises UserError unless the argument is a finite number."""
    value = getattr(objective, argument)
    if not _is_number(value):
        _refuse(objective, argument, "a finite number", value)


def check_count(objective: object, argument: str) -> None:
    """Raises UserError unless the argument is a whole number, 1 or above."""
    value = getattr(objective, argument)
    if not (_is_number(value) and value == int(value) and value >= 1):
        _refuse(objective, argument, "a whole number, 1 or above", value)


def check_flag(objective: object, *arguments: str) -> None:
    """Raises UserError unless each argument is a bool: any misspelt word would count as true."""
    for argument in arguments:
        value = getattr(objective, argument)
        if not isinstance(value, bool):
            _refuse(objective, argument, "true or false", value)


def check_label_smoothing(objective: object) -> None:
    """Raises UserError unless `label_smoothing` is in [0, 0.5): at 0.5 a label says nothing."""
    value = getattr(objective, "label_smoothing")  # noqa: B009  (any objective that has it)
    if not (_is_number(value) and 0 <= value < 0.5):
        _refuse(objective, "label_smoothing", "a number in [0, 0.5)", value)


def check_choice(objective: object, argument: str, choices: Sequence[str]) -> None:
    """Raises UserError unless the argument is one of the choices."""
    value = getattr(objective, argument)
    if value not in choices:
        name = type(objective).__name__
        raise UserError(f"{name}: {argument}={value!r} is unknown; {suggest(value, choices)}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(objective: object, argument: str, allowed: str, value: object) -> None:
    name = type(objective).__name__
    raise UserError(
        f"{name}: {argument} must be {allowed}, not {value!r}; set objective.{argument}."
    )


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
            "per prompt, which the trainer averages."
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
