"""The rows of the table: one column per objective, means over its seeds."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from rankdistill.compare.comparison import Comparison, mean_of
from rankdistill.compare.figures import (
    FIGURES,
    computed_seconds,
    points,
    share,
    training_seconds,
)
from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.pairs import Tested
from rankdistill.compare.statistics import Estimate
from rankdistill.compare.suites import suite_rows
from rankdistill.report.stages import duration
from rankdistill.report.table import NOTHING, Cell, Row, number, signed


def table_rows(comparison: Comparison) -> list[Row]:
    """The rows that there are figures for: better? at what price?"""
    rows = [*_tested_rows(comparison)]
    for key, title, explanation, text, figure in [*suite_rows(comparison.objectives), *FIGURES]:
        values = [mean_of(objective, figure) for objective in comparison.ordered]
        if any(value is not None for value in values):
            cells = [Cell(NOTHING if value is None else text(value)) for value in values]
            rows.append(Row(key, title, explanation, cells))
    return [*rows, *_cost_rows(comparison)]


def _tested_rows(comparison: Comparison) -> list[Row]:
    text, minus = (number, signed) if comparison.sampled else (share, points)
    of = [objective.label for objective in comparison.ordered]
    seeds = [Cell(", ".join(str(run.seed) for run in o.runs)) for o in comparison.ordered]
    of_seeds = Row("seeds", "Seeds", "Of the runs that the figures are means of.", seeds)
    if comparison.verified:
        return [of_seeds]
    resampled = (
        "resampled prompts" if comparison.seeds == 1 else "resampled prompts, and the seeds' spread"
    )
    measure = comparison.measure
    rows = [
        of_seeds,
        Row(
            "score", measure.capitalize(),
            f"Mean over seeds and prompts, with its 95 % interval from {resampled}.",
            [estimate_cell(text, comparison.scores[label]) for label in of],
        ),
        Row(
            "lead", "Gain",
            f"{measure.capitalize()} minus that of the student before this training, on the same "
            "prompts; bold where it is beyond noise, all gains taken together (Holm).",
            [tested_cell(minus, comparison.leads.get(label)) for label in of],
        ),
    ]  # fmt: skip
    if comparison.over_control:
        explanation = (
            "Minus the student before training, merely sampled at the temperature that gives it "
            "the same entropy: what a likelihood gains by being surer is taken off. Bold as above."
        )
        cells = [tested_cell(minus, comparison.over_control.get(label)) for label in of]
        rows.append(Row("over_control", "Gain over the same entropy", explanation, cells))
    return rows


def estimate_cell(text: Callable[[float | None], str], estimate: Estimate) -> Cell:
    if estimate.low is None or estimate.high is None:
        return Cell(text(estimate.mean))
    return Cell(text(estimate.mean), text(estimate.low), text(estimate.high))


def tested_cell(text: Callable[[float | None], str], tested: Tested | None) -> Cell:
    if tested is None:
        return Cell(NOTHING)
    cell = estimate_cell(text, tested.estimate)
    return Cell(cell.value, cell.low, cell.high, tested.beyond_noise)


def _cost_rows(comparison: Comparison) -> list[Row]:
    of = comparison.ordered
    return [
        Row(
            "training_seconds", "Time of training",
            "Of the stages an objective has for itself: train and reward, or the warm-up where "
            "that is all; of reused ones when they were made. On the same machine, at the same "
            "load, these compare.",
            [Cell(duration(mean_of(o, training_seconds))) for o in of],
        ),
        Row(
            "computed_seconds", "Time of a run",
            "Of the stages that it computed itself. Whichever run is first computes what others "
            "reuse, so these do not compare objectives.",
            [Cell(duration(fmean(map(computed_seconds, o.runs)))) for o in of],
        ),
        Row(
            "reused_stages", "Stages reused",
            "Of all stages of its runs: taken from the store, at no time.",
            [_reused_cell(objective) for objective in of],
        ),
    ]  # fmt: skip


def _reused_cell(objective: ObjectiveRuns) -> Cell:
    stages = [stage for run in objective.runs for stage in run.metrics["stages"]]
    return Cell(f"{sum(stage['reused'] for stage in stages)} of {len(stages)}")
