"""What a run hands to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.ranked import RankedSet
from rankdistill.evaluate.verified import Verified
from rankdistill.report.suite_items import SuiteItems
from rankdistill.rows import Group


@dataclass(frozen=True)
class StageRecord:
    """What the report tells of a stage."""

    stage: str
    what: str
    key: str
    seconds: float
    """In this run: next to none where the output was reused."""
    making_seconds: float
    """What making the output took, all attempts together, in whichever run that was."""
    reused: bool
    counts: Mapping[str, Any]
    versions: Mapping[str, str]
    """Of the libraries that made the output."""


@dataclass
class RunReport:
    """One run: its figures, and how they came about; the run fills it as it goes on."""

    title: str
    """One line: what was trained, on what."""
    recipe: str
    command: str
    """As it was typed; of a sweep's point, the sweep's."""
    config_yaml: str
    judge: str
    """What the scores are: `likelihood under <teacher>`."""
    judged_by_training_teacher: bool
    """The judge of this evaluation also ranked the responses that the student was trained on."""
    ranked_by: str | None = None
    """The same of what ranked the training responses; None: an existing set has its ranks."""
    overrides: Sequence[str] = ()
    """What this run's command, or its point of a sweep, set."""
    models: Sequence[ModelFigures] = ()
    """The columns, in their order; none where nothing was sampled."""
    groups: Mapping[str, Sequence[Group]] = field(default_factory=dict)
    """By the name of the model: its scored responses to the held-out prompts."""
    ranked_set: RankedSet | None = None
    """Held-out rankings of an existing set, and what the students make of them."""
    verified: Verified | None = None
    """Which demands verified answers follow; None: no verifier judged here."""
    suites: Mapping[str, Any] | None = None
    """By suite: `version`, `about`, the `figures` of its `models`, and the `changes` of the trained
    one since the baseline."""
    suite_items: SuiteItems = field(default_factory=dict)
    """What these are made of, item by item."""
    ranking: Mapping[str, Any] | None = None
    """How far the training set's ranking can be trusted; see `rankdistill.rank.diagnostics`."""
    reward_model: Mapping[str, Any] | None = None
    """`gate`, `min_accuracy`, and `models`: what a reward model says of every model's answers."""
    learning_rates: Mapping[str, Any] | None = None
    """`what` the values of `train.learning_rate_grid` were `tried` by, and which was `chosen`."""
    stages: Sequence[StageRecord] = ()
    training_history: Sequence[Mapping[str, Any]] = ()
    """The Trainer's log history."""
    warmup_history: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    baseline: str = "warmed_up"
    """The model that differences are taken to."""
    trained: str = "trained"
    start: str | None = "start"
    """The student before any training; in a run with one training, that is the baseline."""
    teacher: str | None = "teacher"
    control: str | None = "sharpened"
    """The baseline sampled at the temperature that gives it the trained student's entropy."""
    tie_margin: float = 0.0
    """Score differences up to it are ties in the win rate."""
    seed: int = 0
    """Of the bootstrap."""
    date: str = ""

    @property
    def measured(self) -> set[str]:
        """Names of the models with at least one measurement."""
        names = {model.name for model in self.models}
        names |= self.ranked_set.labels.keys() if self.ranked_set else set()
        return names.union(*(suite["models"] for suite in (self.suites or {}).values()))

    def temperature(self, name: str) -> float | None:
        """The temperature that a model was sampled at; None where it was not sampled."""
        return next((model.temperature for model in self.models if model.name == name), None)
