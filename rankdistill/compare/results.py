"""`results.csv`: one row per objective, every figure with its interval, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

from rankdistill.compare import verified_table
from rankdistill.compare.comparison import Comparison, mean_of
from rankdistill.compare.figures import FIGURES, computed_seconds, training_seconds
from rankdistill.compare.pairs import Tested
from rankdistill.compare.statistics import Estimate
from rankdistill.compare.suites import suite_rows

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
empty cell: there is no such figure. Figures of evaluation suites follow, as `suite.figure`, and of
verified demands, as `verified.figure`."""


def results_csv(comparison: Comparison) -> str:
    """The table; a run that failed is a row with its sentence."""
    text = io.StringIO()
    suites = suite_rows(comparison.objectives)
    verified = comparison.verified
    columns = [*COLUMNS, *(row.key for row in suites)]
    columns += verified_table.columns() if verified else []
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
            **(verified_table.values(verified, label) if verified else {}),
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
