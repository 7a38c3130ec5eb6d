"""What a comparison knows: leads, differences, wins, and which of them are beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from rankdistill.compare.groups import Objective, objectives_of
from rankdistill.compare.runs import FailedRun, FinishedRun, Runs
from rankdistill.compare.statistics import Estimate, holm, of_differences, of_objectives
from rankdistill.evaluate.statistics import LEVEL, share_won

Values = Callable[[FinishedRun], Mapping[str, float]]
"""A value by prompt id."""


@dataclass(frozen=True)
class Tested:
    """An estimate, and what is left of it when it is one of several."""

    estimate: Estimate
    adjusted: float
    """Holm's p-value over the estimates that were made together."""

    @property
    def beyond_noise(self) -> bool:
        return self.adjusted < 1.0 - LEVEL


@dataclass(frozen=True)
class Difference:
    """Objective `better` minus objective `worse`, by their means."""

    better: str
    worse: str
    tested: Tested
    wins: Estimate | None
    """How often an answer of `better` is scored above one of `worse`; None where none is."""
    paired_seeds: int
    """Seeds that both have; 0: each over its own."""


@dataclass(frozen=True)
class Comparison:
    """Objectives on the same held-out prompts."""

    objectives: list[Objective]
    failed: list[FailedRun]
    prompts: list[str]
    """That every run has a value for."""
    left_out: int
    sampled: bool
    """Judge scores are compared; else the shares of held-out pairs in order."""
    scores: dict[str, Estimate]
    """By label, like all that follows."""
    leads: dict[str, Tested]
    """Trained minus what training began with, on the same prompts."""
    over_control: dict[str, Tested]
    """Trained minus the student before, merely sampled more sharply, where that was done."""
    differences: list[Difference]
    """Every pair of objectives."""

    @property
    def measure(self) -> str:
        return "judge score" if self.sampled else "share of pairs in order"

    @property
    def seeds(self) -> int:
        """The fewest of an objective."""
        return min(len(objective.runs) for objective in self.objectives)

    @property
    def ordered(self) -> list[Objective]:
        """The highest mean first."""
        return sorted(self.objectives, key=lambda o: -self.scores[o.label].mean)

    def difference(self, a: str, b: str) -> Difference | None:
        """The pair of two labels, whichever is better."""
        found = (d for d in self.differences if {d.better, d.worse} == {a, b})
        return next(found, None)


def compare_runs(runs: Runs, *, seed: int = 0) -> Comparison:
    """All figures that rest on resampling; `seed` is the resampling's."""
    objectives = objectives_of(runs.finished)
    sampled = runs.finished[0].sampled
    trained, before, control = (_values(role, sampled) for role in ROLES)
    every = [values(run) for run in runs.finished for values in (trained, before)]
    prompts = sorted(set(every[0]).intersection(*every[1:]))
    left_out = len(set().union(*every)) - len(prompts)
    tables = {o.label: [_row(trained(run), prompts) for run in o.runs] for o in objectives}
    minus = {o.label: [_row(before(run), prompts) for run in o.runs] for o in objectives}
    sharp = {
        o.label: [_row(control(run), prompts) for run in o.runs]
        for o in objectives
        if all(set(prompts) <= control(run).keys() for run in o.runs)
    }
    scores = of_objectives([np.stack(rows) for rows in tables.values()], seed=seed)
    return Comparison(
        objectives=objectives,
        failed=runs.failed,
        prompts=prompts,
        left_out=left_out,
        sampled=sampled,
        scores=dict(zip(tables, scores, strict=True)),
        leads=_leads(tables, minus, seed),
        over_control=_leads(tables, sharp, seed),
        differences=_differences(objectives, tables, prompts, sampled, seed),
    )


ROLES = ("trained", "baseline", "control")


def _values(role: str, sampled: bool) -> Values:
    """Scores, or shares of pairs in order, by prompt of the model with a role; empty without it."""

    def values(run: FinishedRun) -> Mapping[str, float]:
        models = run.metrics["models"] if sampled else run.metrics["ranked_set"]["models"]
        model = models.get(run.metrics[role])
        return {} if model is None else model["prompt_scores" if sampled else "prompt_accuracy"]

    return values


def _row(values: Mapping[str, float], prompts: Sequence[str]) -> np.ndarray:
    return np.array([values[prompt] for prompt in prompts], dtype=np.float64)


Rows = Mapping[str, Sequence[np.ndarray]]


def _leads(tables: Rows, minus: Rows, seed: int) -> dict[str, Tested]:
    differences = [np.stack(tables[label]) - np.stack(minus[label]) for label in minus]
    return dict(zip(minus, _tested(of_objectives(differences, seed=seed)), strict=True))


def _tested(estimates: Sequence[Estimate]) -> list[Tested]:
    adjusted = holm([estimate.p_value for estimate in estimates])
    return [Tested(*pair) for pair in zip(estimates, adjusted, strict=True)]


def _differences(
    objectives: Sequence[Objective], tables: Rows, prompts: Sequence[str], sampled: bool, seed: int
) -> list[Difference]:
    """Every pair on the seeds that both have, else on the means over their own."""
    means = {label: np.mean(rows) for label, rows in tables.items()}
    pairs = [
        (a, b) if means[a.label] >= means[b.label] else (b, a)
        for a, b in combinations(objectives, 2)
    ]
    shared = [sorted(a.by_seed.keys() & b.by_seed.keys()) for a, b in pairs]
    rows = [_pair_table(a, b, tables, seeds) for (a, b), seeds in zip(pairs, shared, strict=True)]
    tested = _tested(of_differences(rows, len(objectives), seed=seed))
    wins: Sequence[Estimate | None] = [None] * len(pairs)
    if sampled:
        won = [_won(a, b, prompts, seeds) for (a, b), seeds in zip(pairs, shared, strict=True)]
        wins = of_differences(won, len(objectives), null=0.5, seed=seed)
    return [
        Difference(a.label, b.label, one, won, len(seeds))
        for (a, b), one, won, seeds in zip(pairs, tested, wins, shared, strict=True)
    ]


def _pair_table(a: Objective, b: Objective, tables: Rows, seeds: Sequence[int]) -> np.ndarray:
    if not seeds:
        return np.mean(tables[a.label], axis=0, keepdims=True) - np.mean(tables[b.label], axis=0)
    of_a, of_b = (dict(zip(o.by_seed, tables[o.label], strict=True)) for o in (a, b))
    return np.stack([of_a[seed] - of_b[seed] for seed in seeds])


def _won(a: Objective, b: Objective, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """[S, P] shares of answers of `a` that are scored above one of `b`."""
    pairs: Iterable[tuple[FinishedRun, FinishedRun]] = [
        (a.by_seed[seed], b.by_seed[seed]) for seed in seeds
    ] or [(x, y) for x in a.runs for y in b.runs]
    rows = [
        [share_won(x[prompt], y[prompt], tie_margin) for prompt in prompts]
        for x, y, tie_margin in (
            (_responses(x), _responses(y), x.metrics["statistics"]["tie_margin"]) for x, y in pairs
        )
    ]
    table = np.array(rows, dtype=np.float64)
    return table if seeds else table.mean(axis=0, keepdims=True)


def _responses(run: FinishedRun) -> Mapping[str, Sequence[float]]:
    return run.metrics["models"][run.metrics["trained"]]["response_scores"]


def mean_of(objective: Objective, figure: Callable[[FinishedRun], float | None]) -> float | None:
    """The mean of a figure over the runs that have it."""
    found = [value for run in objective.runs if (value := figure(run)) is not None]
    return fmean(found) if found else None
