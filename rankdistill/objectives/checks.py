"""Range checks of the objectives' arguments, each refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from rankdistill.errors import UserError, suggest


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
