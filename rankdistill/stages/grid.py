"""The learning rate of an objective, from a grid that all objectives of a comparison share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.stages.run import Model
from rankdistill.stages.validation import Validation

Trained = tuple[Model, list[dict[str, Any]]]
"""A student and the history of its training."""


@dataclass(frozen=True)
class GridSearch:
    """The learning rate that was chosen, and what was trained at it."""

    learning_rate: float
    trained: Trained
    figures: dict[str, Any]
    """The block `learning_rates` of `metrics.json`: every value with its figure or failure."""


def train_at_best_rate(
    grid: Sequence[float], validation: Validation, train: Callable[[float], Trained]
) -> GridSearch:
    """Train at every learning rate of the grid, and choose the student that validates best.

    Every value is a training of its own in the store. Rates whose training fails (NaN loss) are
    skipped; ties go to the smallest.

    Args:
        grid: `train.learning_rate_grid`, at least one value.
        train: The student and its history at a learning rate; a UserError is a failed training.

    Raises:
        UserError: training failed at every value, or there are no validation prompts.
    """
    validation.check()
    trained: dict[float, Trained] = {}
    failed: dict[float, UserError] = {}
    for rate in sorted(set(grid)):
        try:
            trained[rate] = train(rate)
        except UserError as error:
            failed[rate] = error
            result(f"learning rate {rate:g}: {error}")
    if not trained:
        raise next(iter(failed.values()))
    before = validation.figure(validation.warm, "warmed up")
    figures = {
        rate: validation.figure(model, f"learning rate {rate:g}")
        for rate, (model, _) in trained.items()
    }
    best = max(figures, key=lambda rate: (figures[rate], -rate))
    result(f"learning rate {best:g}: {validation.what} {figures[best]:.4g}, before {before:.4g}")
    tried = [
        {
            "learning_rate": rate,
            "figure": figures.get(rate),
            "failure": str(failed[rate]) if rate in failed else None,
        }
        for rate in sorted({**trained, **failed})
    ]
    block = {"what": validation.what, "chosen": best, "before": before, "tried": tried}
    return GridSearch(best, trained[best], block)
