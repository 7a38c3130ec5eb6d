"""The tables that both pages share, of figures, differences, wins and configurations; and
`results.csv`: one row per objective, every figure with its interval, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from rankdistill.compare.comparison import Comparison, mean_of
from rankdistill.compare.contrasts import Planned
from rankdistill.compare.figures import FIGURES, computed_seconds, suite_rows, training_seconds
from rankdistill.compare.groups import ObjectiveRuns, config_rows
from rankdistill.compare.statistics import Difference, Estimate, Tested
from rankdistill.compare.suites import change_columns, change_rows, change_values
from rankdistill.compare.verified import (
    VerifiedTables,
    unit,
    verified_columns,
    verified_values,
)
from rankdistill.compare.wording import p_text, verdict
from rankdistill.report.stages import duration
from rankdistill.report.table import (
    NOTHING,
    Cell,
    Row,
    number,
    percent,
    points,
    share_percent,
    signed,
)


def table_rows(comparison: Comparison) -> list[Row]:
    """The rows that there are figures for: better? at what price?"""
    rows = [*_tested_rows(comparison)]
    suites = suite_rows(comparison.objectives)
    labels = [objective.label for objective in comparison.ordered]
    changed = change_rows(comparison.suite_changes, suites, labels)
    for key, title, explanation, text, figure, _ in [*suites, *FIGURES]:
        values = [mean_of(objective, figure) for objective in comparison.ordered]
        if any(value is not None for value in values):
            cells = [Cell(NOTHING if value is None else text(value)) for value in values]
            rows.append(Row(key, title, explanation, cells))
            rows += [changed[key]] if key in changed else []
    return [*rows, *_cost_rows(comparison)]


def _tested_rows(comparison: Comparison) -> list[Row]:
    text, minus = (number, signed) if comparison.sampled else (share_percent, points)
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


DIFFERENCES = (
    "The first objective minus the second, on the same prompts and seeds, with the 95 % interval "
    "of that difference alone. The p-value is corrected for how many differences there are (Holm): "
    "below 0.05 is beyond noise."
)
_VERIFIED_DIFFERENCES = (
    "{} by the first objective minus those by the second, in points, on the "
    "same {} and seeds, with the 95 % interval of that difference alone; from two seeds "
    "on it takes in how much seeds differ. The p-value is corrected for how many differences there "
    "are (Holm): below 0.05 is beyond noise."
)
WINS = (
    "How often a response of the row's objective is scored above one of the column's to the same "
    "prompt, ties half, with its 95 % interval, not corrected: the differences above decide."
)


DifferenceRow = tuple[str, Cell, str, str]
"""What minus what, the difference, its corrected p-value, the verdict."""
PLANNED = (
    "Named before the run and corrected for each other alone (Holm): below 0.05 is beyond noise. "
    "The 95 % interval is of each alone, on the same prompts and seeds; from two seeds on it takes "
    "in how much seeds differ. The strongest of several controls is the one that leaves least, and "
    "its p-value the largest of theirs."
)
EXPLORATORY = "Not named before the run, and to be confirmed by another one. "


def planned_rows(comparison: Comparison) -> list[DifferenceRow]:
    """The contrasts that were named before the run, in that order."""
    return rows_of_planned(comparison.planned, points if comparison.in_points else signed)


def rows_of_planned(
    planned: Sequence[Planned], text: Callable[[float | None], str]
) -> list[DifferenceRow]:
    """The same of any contrasts; `text` tells a difference."""
    return [
        (p.title, tested_cell(text, p.tested), p_text(p.tested.adjusted), verdict(p.tested))
        for p in planned
    ]


def difference_rows(comparison: Comparison) -> list[DifferenceRow]:
    """Every pair that was not planned, the surest first."""
    text = points if comparison.in_points else signed
    return rows_of(comparison.exploratory, text)


def differences_title(comparison: Comparison) -> str:
    return "Differences, exploratory" if comparison.planned else "Differences"


def rows_of(
    differences: Sequence[Difference], text: Callable[[float | None], str]
) -> list[DifferenceRow]:
    """The same of any differences; `text` tells one."""
    ordered = sorted(differences, key=lambda d: (d.tested.adjusted, d.better))
    return [
        (
            f"{d.better} minus {d.worse}",
            tested_cell(text, d.tested),
            p_text(d.tested.adjusted),
            verdict(d.tested),
        )
        for d in ordered
    ]


def about_differences(comparison: Comparison) -> str:
    """What stands above them."""
    about = about_verified_differences(comparison.verified) if comparison.verified else DIFFERENCES
    return EXPLORATORY + about if comparison.planned else about


def about_verified_differences(verified: VerifiedTables) -> str:
    """The same where answers were verified."""
    what = "Trained kinds followed" if verified.rule is None else "Answers that meet the rule,"
    return _VERIFIED_DIFFERENCES.format(what, unit(verified))


def win_rows(comparison: Comparison) -> list[Row]:
    """The matrix, the best objective first; none where nothing was sampled."""
    of = [objective.label for objective in comparison.ordered]
    if not comparison.sampled or len(of) < 2:
        return []
    return [Row(row, row, "", [_won(comparison, row, column) for column in of]) for row in of]


def config_table(comparison: Comparison) -> list[list[str]]:
    """Key, then the value of every objective, for the keys that differ."""
    return config_rows(comparison.ordered)


def _won(comparison: Comparison, row: str, column: str) -> Cell:
    difference = comparison.difference(row, column)
    if difference is None or difference.wins is None:
        return Cell(NOTHING)
    wins = difference.wins
    return estimate_cell(percent, wins if difference.better == row else _lost(wins))


def _lost(wins: Estimate) -> Estimate:
    """The same seen from the other side."""
    low = None if wins.high is None else 1.0 - wins.high
    high = None if wins.low is None else 1.0 - wins.low
    return Estimate(1.0 - wins.mean, low, high, wins.p_value, wins.seeds)


_INTERVALS = ("score", "lead", "over_control")
COLUMNS = [
    "objective",
    "seeds",
    "prompts",
    "measure",
    *(f"{name}{part}" for name in _INTERVALS for part in ("", "_low", "_high")),
    "lead_p",
    "over_control_p",
    "beyond_noise_over",
    *(row.key for row in FIGURES),
    "training_seconds",
    "computed_seconds",
    "reused_stages",
    "stages",
    "folders",
    "failure",
]
"""`_p`: Holm-corrected. `beyond_noise_over`: the objectives that it is better than, by `;`. An
empty cell: there is no such figure. Figures of evaluation suites follow, as `suite.figure` and
`suite.figure.change`, and of verified demands, as `verified.figure`."""


def results_csv(comparison: Comparison) -> str:
    """The table; a run that failed is a row with its sentence."""
    text = io.StringIO()
    suites = suite_rows(comparison.objectives)
    verified = comparison.verified
    changed = comparison.suite_changes
    columns = [*COLUMNS, *(row.key for row in suites), *change_columns(changed)]
    columns += verified_columns() if verified else []
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for objective in comparison.ordered:
        label, stages = objective.label, [s for r in objective.runs for s in r.metrics["stages"]]
        lead, control = comparison.leads[label], comparison.over_control.get(label)
        better = [
            d.worse for d in comparison.differences if d.better == label and d.tested.beyond_noise
        ]
        row: dict[str, Any] = {
            "objective": label,
            "seeds": ";".join(str(run.seed) for run in objective.runs),
            "prompts": len(comparison.prompts),
            "measure": comparison.score,
            **_interval("score", comparison.scores[label]),
            **_tested("lead", lead),
            **_tested("over_control", control),
            "beyond_noise_over": ";".join(better),
            **{row.key: mean_of(objective, row.figure) for row in [*FIGURES, *suites]},
            "training_seconds": mean_of(objective, training_seconds),
            "computed_seconds": mean_of(objective, computed_seconds),
            "reused_stages": sum(stage["reused"] for stage in stages),
            "stages": len(stages),
            "folders": ";".join(str(run.folder) for run in objective.runs),
            **change_values(changed, label),
            **(verified_values(verified, label) if verified else {}),
        }
        writer.writerow(row)
    for run in comparison.failed:
        writer.writerow({"folders": str(run.folder), "failure": run.sentence})
    return text.getvalue()


def _interval(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _tested(name: str, tested: Tested | None) -> dict[str, float | None]:
    if tested is None:
        return {}
    return {**_interval(name, tested.estimate), f"{name}_p": tested.adjusted}
