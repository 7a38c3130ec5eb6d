"""One figure of a student on the validation prompts: what is chosen by it never saw the held-out.

It is the figure that the report leads with, where responses can be sampled: the judge's mean
score. For an existing ranked set alone it is the share of pairs that the student orders as they are
ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from hydra.core.hydra_config import HydraConfig

from rankdistill.errors import UserError
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
