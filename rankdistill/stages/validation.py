"""One figure of a student on the validation prompts, and the learning rate that is chosen by it.

What is chosen never saw the held-out prompts.

It is the figure that the report leads with, where responses can be sampled: the judge's mean
score. For an existing ranked set alone it is the share of pairs that the student orders as they are
ranked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hydra.core.hydra_config import HydraConfig

from rankdistill.console import result
from rankdistill.errors import Diverged, UserError
from rankdistill.models import Rows
from rankdistill.stages.evaluate import Evaluation
from rankdistill.stages.ranked import pair_accuracy
from rankdistill.stages.run import Model, Run


@dataclass(frozen=True)
class Validation:
    """The validation split of a run."""

    run: Run
    prompts: Rows
    warm: Model
    """The student before its training."""
    ranked_set: Rows | None
    """An existing ranked set."""

    @property
    def what(self) -> str:
        """What the figure is."""
        if self.run.settings.quick is None:
            return f"share of pairs in order, {len(self.prompts)} validation groups"
        return f"mean score of the answers to {len(self.prompts)} validation prompts"

    def check(self) -> None:
        """Raises UserError where there is nothing to validate on."""
        if not self.prompts.rows:
            raise UserError(
                "A figure on validation prompts is asked for (train.learning_rate_grid, or a "
                "sweeper such as Optuna's), and there are none: raise prompts.limit.validation or "
                "prompts.splits.validation."
            )

    def figure(self, model: Model, name: str) -> float:
        """Higher is better. UserError: no response was scored, or no pair is ranked.

        Args:
            name: Of the model, for the person.
        """
        self.check()
        run, quick = self.run, self.run.settings.quick
        if quick is None:
            assert self.ranked_set is not None
            figure = pair_accuracy(run, self.ranked_set, model, name, "validation")
        else:
            evaluation = Evaluation(run, quick, self.prompts, self.warm)
            evaluation.answers(self.warm, "warmed up")  # shared, and an ensemble's scale
            groups = evaluation.answers(model, name).groups
            scores = [r.get("score", math.nan) for g in groups for r in g["responses"]]
            finite = [score for score in scores if math.isfinite(score)]
            figure = fmean(finite) if finite else None
        if figure is None:
            raise UserError(f"There is no {self.what} for '{name}': no response has a score.")
        return figure

    def for_sweeper(self, model: Model) -> float | None:
        """The trained student's figure, where a sweeper chooses points by it."""
        if HydraConfig.get().runtime.choices.get("hydra/sweeper") in (None, "basic"):
            return None
        return self.figure(model, "trained")


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

    Every value is a training of its own in the store. Rates whose training diverges are skipped;
    ties go to the smallest.

    Args:
        grid: `train.learning_rate_grid`, at least one value.
        train: The student and its history at a learning rate; `Diverged` where there is none.

    Raises:
        UserError: there are no validation prompts, or a training could not be done, at whatever
            rate (a full disk). `Diverged` at every value is raised too.
    """
    validation.check()
    trained: dict[float, Trained] = {}
    failed: dict[float, Diverged] = {}
    for rate in sorted(set(grid)):
        try:
            trained[rate] = train(rate)
        except Diverged as error:
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
