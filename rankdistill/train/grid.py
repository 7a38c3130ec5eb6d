"""The learning rate of an objective, from a grid that all objectives of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.evaluate.validation import Validation
from rankdistill.run import Model, Run

Trained = tuple[Model, list[dict[str, Any]]]
"""A student and the history of its training."""


def trained_at_best_rate(run: Run, validation: Validation, train: Callable[[], Trained]) -> Trained:
    """What `train` makes at the learning rate of the grid whose student validates best.

    Without a grid, at `train.learning_rate`. Every value is a training of its own in the store.
    What was chosen stays: later rounds train with it. A rate at which training fails, as by a loss
    that is no number, is none to choose; of equally good ones the smallest is.

    Raises:
        UserError: no value could be trained with.
    """
    settings = run.settings
    if not settings.train.learning_rate_grid:
        return train()
    validation.check()
    trained: dict[float, Trained] = {}
    failed: dict[float, UserError] = {}
    for rate in sorted(set(settings.train.learning_rate_grid)):
        run.settings = _at(settings, rate)
        try:
            trained[rate] = train()
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
    run.settings = _at(settings, best)
    run.learning_rates = {
        "what": validation.what,
        "chosen": best,
        "before": before,
        "tried": [
            {
                "learning_rate": rate,
                "figure": figures.get(rate),
                "failure": str(failed[rate]) if rate in failed else None,
            }
            for rate in sorted({**trained, **failed})
        ],
    }
    return trained[best]


def _at(settings: Any, rate: float) -> Any:
    """The settings with this learning rate, and no grid."""
    train = replace(settings.train, learning_rate=rate, learning_rate_grid=[])
    return replace(settings, train=train)
