"""What a comparison knows: leads, differences, wins, and which of them are beyond noise.

And the same prompts answered by each student, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from rankdistill.compare import demands
from rankdistill.compare.contrasts import (
    BEFORE,
    CONTROL,
    Contrast,
    OverOwn,
    Planned,
    contrasts_in,
    contrasts_of,
    names_of,
    not_measured,
    over_own_demands,
    planned_and_rest,
)
from rankdistill.compare.groups import ObjectiveRuns, objectives_of
from rankdistill.compare.runs import FailedRun, FinishedRun, Runs, own_prompts
from rankdistill.compare.statistics import (
    Difference,
    Estimate,
    Tables,
    Tested,
    of_differences,
    of_objectives,
    pair_differences,
    shared_seeds,
    tested,
)
from rankdistill.compare.suites import Changes, suite_changes
from rankdistill.compare.verified import VerifiedTables, unmeasured, verified_tables
from rankdistill.report.answers import ANSWERS, begins, first_answers
from rankdistill.statistics import Interval, share_won

SEED = 0
"""Of all resampling."""
Values = Callable[[FinishedRun], Mapping[str, float]]
"""A value by prompt id."""


@dataclass(frozen=True)
class Comparison:
    """Objectives on the same held-out prompts."""

    objectives: list[ObjectiveRuns]
    failed: list[FailedRun]
    prompts: list[str]
    """That every run has a value for; requests, where each seed has demands of its own."""
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
    demands: Any = None
    """The table of all verified rows, where every run has them."""
    verified: VerifiedTables | None = None
    """What that table says; then what is said is said of it, and not of judge scores."""
    not_verified: str | None = None
    """Why there is no such table, where some run was verified."""
    suite_changes: Changes = field(default_factory=dict)
    """What became of the figures of suites."""
    planned: list[Planned] = field(default_factory=list)
    """Contrasts that were named before the run, in that order; all else is exploratory."""
    not_here: list[str] = field(default_factory=list)
    """Contrasts that the runs name, and that these runs have not."""

    @property
    def measure(self) -> str:
        if self.verified is None:
            return self.score
        met = "answers that meet the rule"
        return f"share of {'demands followed' if self.verified.rule is None else met}"

    @property
    def score(self) -> str:
        """What `scores`, `leads` and `differences` are of."""
        return "judge score" if self.sampled else "share of pairs in order"

    @property
    def in_points(self) -> bool:
        """Differences are told in points of 100: they are of shares."""
        return self.verified is not None or not self.sampled

    @property
    def told_differences(self) -> list[Difference]:
        """Of verified demands where there are any."""
        return self.verified.differences if self.verified else self.differences

    @property
    def exploratory(self) -> list[Difference]:
        """The told ones that were not named before the run."""
        named = {planned.contrast.pair for planned in self.planned}
        return [d for d in self.told_differences if frozenset((d.better, d.worse)) not in named]

    @property
    def seeds(self) -> int:
        """The fewest of an objective."""
        return min(len(objective.runs) for objective in self.objectives)

    @property
    def ordered(self) -> list[ObjectiveRuns]:
        """The highest mean first."""
        return sorted(self.objectives, key=lambda o: -self.mean(o.label))

    def mean(self, label: str) -> float:
        """Of the measure, of the trained students."""
        if self.verified:
            return self.verified.figures[label]["trained"].interval.mean
        return self.scores[label].mean

    def lead(self, label: str) -> Interval:
        """Over the student before training; verified: the smaller of two gains."""
        if self.verified:
            return self.verified.gain(label)[1].interval
        return self.leads[label].estimate

    def difference(self, a: str, b: str) -> Difference | None:
        """The pair of two labels, whichever is better."""
        found = (d for d in self.differences if {d.better, d.worse} == {a, b})
        return next(found, None)


def compare_runs(runs: Runs, contrasts: Sequence[str] | None = None) -> Comparison:
    """All figures that rest on resampling.

    Args:
        runs: What is compared.
        contrasts: Named before the run, see `contrasts_of`; None: those that the runs'
            configurations name.

    Raises:
        UserError: a contrast is not of these runs.
    """
    objectives = objectives_of(runs.finished)
    sampled = runs.finished[0].sampled
    by_request = own_prompts(runs.finished)
    trained, before, control = (_values(role, sampled, by_request) for role in ROLES)
    every = [values(run) for run in runs.finished for values in (trained, before)]
    prompts = sorted(set(every[0]).intersection(*every[1:]))
    left_out = len(set().union(*every)) - len(prompts)
    tables = {
        o.label: {run.seed: _row(trained(run), prompts) for run in o.runs} for o in objectives
    }
    minus = {o.label: [_row(before(run), prompts) for run in o.runs] for o in objectives}
    sharp = {
        o.label: [_row(control(run), prompts) for run in o.runs]
        for o in objectives
        if all(set(prompts) <= control(run).keys() for run in o.runs)
    }
    stacks = {label: np.stack(list(rows.values())) for label, rows in tables.items()}
    scores = of_objectives(list(stacks.values()), seed=SEED)
    table, verified, why_not = _verified(objectives)
    comparison = Comparison(
        objectives=objectives,
        failed=runs.failed,
        prompts=prompts,
        left_out=left_out,
        sampled=sampled,
        scores=dict(zip(tables, scores, strict=True)),
        leads=_leads(stacks, minus),
        over_control=_leads(stacks, sharp),
        differences=_differences(objectives, tables, prompts, sampled, by_request),
        demands=table,
        verified=verified,
        not_verified=why_not,
        suite_changes=suite_changes(objectives),
    )
    return _with_planned(comparison, contrasts)


def _with_planned(comparison: Comparison, names: Sequence[str] | None) -> Comparison:
    """The comparison with its contrasts, and all pairs corrected with or without them."""

    @cache
    def over_own(contrast: Contrast) -> OverOwn:
        return _over_own(comparison, contrast)

    if names is None:
        contrasts, not_here = contrasts_in(comparison.objectives, over_own)
    else:
        contrasts, not_here = contrasts_of(names, names_of(comparison.objectives)), []
    if not contrasts:
        return replace(comparison, not_here=not_here)
    planned, told = planned_and_rest(contrasts, comparison.told_differences, over_own)
    found = replace(comparison, planned=planned, not_here=not_here)
    if comparison.verified is None:
        return replace(found, differences=told)
    return replace(found, verified=replace(comparison.verified, differences=told))


def _over_own(comparison: Comparison, contrast: Contrast) -> OverOwn:
    """An objective against what it is held against by itself, by the comparison's measure."""
    if comparison.verified is not None:
        return over_own_demands(comparison.verified, contrast, seed=SEED)
    label, over = contrast
    found = {BEFORE: comparison.leads, CONTROL: comparison.over_control}.get(over, {})
    if label not in found:
        raise not_measured(contrast)
    return OverOwn(found[label].estimate, "same entropy" if over == CONTROL else over)


def _verified(
    objectives: Sequence[ObjectiveRuns],
) -> tuple[Any, VerifiedTables | None, str | None]:
    """The table of all rows and its figures, or why there are none where some run was verified."""
    runs = [run for objective in objectives for run in objective.runs]
    if not all(map(demands.has_rows, runs)):
        return None, None, demands.missing(runs)
    table = demands.gathered(objectives)
    rows = demands.by_run(table)
    if without := unmeasured(rows):
        return None, None, (
            "No figures of verified demands: no answers before and after training to demands of "
            f"trained kinds in {', '.join(without[:3])}{' and others' if without[3:] else ''}."
        )  # fmt: skip
    return table, verified_tables(rows, seed=SEED), None


ROLES = ("trained", "baseline", "control")


def _values(role: str, sampled: bool, by_request: bool) -> Values:
    """Scores, or shares of pairs in order, by prompt of the model with a role; empty without it."""

    def values(run: FinishedRun) -> Mapping[str, float]:
        models = run.metrics["models"] if sampled else run.metrics["ranked_set"]["models"]
        model = models.get(run.metrics[role])
        if model is None:
            return {}
        own = model["prompt_scores" if sampled else "prompt_accuracy"]
        return _of_requests(run, own) if by_request else own

    return values


def _of_requests(run: FinishedRun, values: Mapping[str, float]) -> dict[str, float]:
    """The mean of the values of a request's prompts; one whose demands were not checked is none."""
    own: dict[str, list[float]] = {}
    for prompt in values.keys() & run.base_prompts.keys():
        own.setdefault(run.base_prompts[prompt], []).append(values[prompt])
    return {request: fmean(of) for request, of in own.items()}


def _row(values: Mapping[str, float], prompts: Sequence[str]) -> np.ndarray:
    return np.array([values[prompt] for prompt in prompts], dtype=np.float64)


Rows = Mapping[str, Sequence[np.ndarray]]


def _leads(stacks: Mapping[str, np.ndarray], minus: Rows) -> dict[str, Tested]:
    differences = [stacks[label] - np.stack(minus[label]) for label in minus]
    return dict(zip(minus, tested(of_objectives(differences, seed=SEED)), strict=True))


def _differences(
    objectives: Sequence[ObjectiveRuns],
    tables: Tables,
    prompts: Sequence[str],
    sampled: bool,
    by_request: bool,
) -> list[Difference]:
    """Every pair, and where the same prompts were answered, how often one wins."""
    differences = pair_differences(tables, seed=SEED)
    if not sampled or (by_request and any(d.paired_seeds == 0 for d in differences)):
        return differences
    of = {objective.label: objective for objective in objectives}
    won = [_won(of[d.better], of[d.worse], prompts, by_request) for d in differences]
    wins = of_differences(won, len(objectives), null=0.5, seed=SEED)
    return [replace(d, wins=one) for d, one in zip(differences, wins, strict=True)]


def _won(
    a: ObjectiveRuns, b: ObjectiveRuns, prompts: Sequence[str], by_request: bool
) -> np.ndarray:
    """[S, P] shares of answers of `a` that are scored above one of `b`."""
    seeds = shared_seeds(a.by_seed, b.by_seed)
    pairs: Iterable[tuple[FinishedRun, FinishedRun]] = [
        (a.by_seed[seed], b.by_seed[seed]) for seed in seeds
    ] or [(x, y) for x in a.runs for y in b.runs]
    rows = []
    for x, y in pairs:
        of_x, of_y, margin = _responses(x), _responses(y), x.metrics["statistics"]["tie_margin"]
        won = {p: share_won(of_x[p], of_y[p], margin) for p in of_x.keys() & of_y.keys()}
        rows.append(_row(_of_requests(x, won) if by_request else won, prompts))
    table = np.array(rows, dtype=np.float64)
    return table if seeds else table.mean(axis=0, keepdims=True)


def _responses(run: FinishedRun) -> Mapping[str, Sequence[float]]:
    return run.metrics["models"][run.metrics["trained"]]["response_scores"]


def mean_of(
    objective: ObjectiveRuns, figure: Callable[[FinishedRun], float | None]
) -> float | None:
    """The mean of a figure over the runs that have it."""
    found = [value for run in objective.runs if (value := figure(run)) is not None]
    return fmean(found) if found else None


SHOWN = 200
"""Most prompts of a page; those that the students disagree on most."""


@dataclass(frozen=True)
class Answered:
    """One prompt with one response of every student."""

    prompt_id: str
    messages: Sequence[Mapping[str, str]]
    responses: dict[str, Mapping[str, Any]]
    """text, score, tokens and cut of the first one of the first seed, by the student's label."""
    means: dict[str, float]
    """Mean score over responses and the seeds that were asked it, by label."""

    @property
    def begins(self) -> str:
        """The first words of the prompt's last message."""
        return begins(self.messages)

    @property
    def disagreement(self) -> float:
        """Between the best and the worst student's mean score."""
        return max(self.means.values()) - min(self.means.values())


def answered(comparison: Comparison) -> list[Answered]:
    """The prompts that at least two students' answers are at hand for; largest disagreement first.

    A run folder keeps all answers; of one that was written before it did, the report's choice is
    taken.
    """
    if not comparison.sampled:
        return []
    given = {o.label: _answers(o.runs[0]) for o in comparison.objectives}
    found = []
    for prompt in dict.fromkeys(prompt for rows in given.values() for prompt in rows):
        rows = {label: rows[prompt] for label, rows in given.items() if prompt in rows}
        means = {o.label: m for o in comparison.ordered if (m := _mean(o, prompt)) is not None}
        if len(rows) < 2 or len(means) < len(comparison.objectives):
            continue
        found.append(
            Answered(
                prompt,
                next(iter(rows.values()))[0],
                {o.label: rows[o.label][1] for o in comparison.ordered if o.label in rows},
                means,
            )
        )
    return sorted(found, key=lambda one: (-one.disagreement, one.prompt_id))[:SHOWN]


def _mean(objective: ObjectiveRuns, prompt: str) -> float | None:
    """Over the runs that were asked this prompt; None if one of them has no score of it."""
    asked = [run for run in objective.runs if prompt in run.prompts]
    scores = [run.metrics["models"][run.metrics["trained"]]["prompt_scores"] for run in asked]
    whole = bool(scores) and all(prompt in of for of in scores)
    return fmean(of[prompt] for of in scores) if whole else None


def _answers(run: FinishedRun) -> dict[str, tuple[Any, Any]]:
    """By prompt id: its messages, and the trained student's first answer."""
    name = run.metrics["trained"]
    if (run.folder / ANSWERS).is_file():
        return first_answers(run.folder, name)
    return {s["prompt_id"]: (s["messages"], s["responses"][name]) for s in run.metrics["samples"]}
