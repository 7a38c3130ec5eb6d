"""What a distilled student keeps of its teacher, by the minutes that it was trained, as Markdown.

    python docs/figures/kept.py 30=runs/kept_30 60=runs/kept_60

Each folder is a run of `recipe=evaluate base=TEACHER student.path=STUDENT
eval=[quick,verified,hellaswag]`. Kept of HellaSwag is the share above chance, (student - 25) /
(teacher - 25), of `acc_norm`; its 95 % interval resamples the descriptions, the same for both. The
last line is the least-squares line through the shares against the logarithm of the minutes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rankdistill.errors import UserError
from rankdistill.evaluate.verified import DemandRow, share, tally
from rankdistill.report.suite_items import read_suite_items
from rankdistill.statistics import Interval, bootstrap

CHANCE = 0.25
"""One of four endings."""
AS_DISTILBERT = 0.97
"""Of the teacher's score, in Sanh et al. 2019."""
HEADINGS = (
    "minutes",
    "KL to the teacher",
    "HellaSwag, %",
    "kept, %",
    "demands, own minus opposite",
)


def above_chance(student: np.ndarray, teacher: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share that is kept, of 0 or 1 per description."""
    return (student.mean(axis) - CHANCE) / (teacher.mean(axis) - CHANCE)


def kept(folder: Path) -> tuple[Interval, float, float]:
    """The share with its interval, then the accuracies of the student and of its teacher."""
    found = read_suite_items(folder / "suites.parquet").get("hellaswag", {}).get("acc_norm,none")
    if found is None or not {"trained", "warmed_up"} <= found.keys():
        raise UserError(f"{folder} has no HellaSwag of two models: give runs of recipe=evaluate.")
    student = found["trained"]
    values = [of.sums[0] for of in (student, found["warmed_up"].on(student.ids))]
    low, high = bootstrap(values, above_chance, 0)
    of_student, of_teacher = (float(each.mean()) for each in values)
    return Interval(float(above_chance(*values)), low, high), of_student, of_teacher


def line_through(shares: Mapping[float, float]) -> tuple[float, float]:
    """What a doubling of the minutes adds, and the minutes at which the line is at 97 %."""
    doubling, at_one = np.polyfit(np.log2([*shares]), [*shares.values()], 1)
    return float(doubling), math.pow(2.0, (AS_DISTILBERT - at_one) / doubling)


def followed(folder: Path, arm: str) -> Interval:
    """Demands that an arm's answers follow minus opposite ones: 0 is deaf, whatever the habit."""
    rows = [DemandRow(**row) for row in pq.read_table(folder / "demands.parquet").to_pylist()]
    found = tally([row for row in rows if row.arm == arm], "own_minus_opposite")
    if found is None:
        raise UserError(f"{folder} has no answers of {arm}: give runs with eval=[verified].")
    return share(found, seed=0)


def told(of: Interval) -> str:
    if of.low is None or of.high is None:
        return f"{100 * of.mean:.1f}"
    return f"{100 * of.mean:.1f} [{100 * of.low:.1f}, {100 * of.high:.1f}]"


def main(runs: Mapping[float, Path]) -> None:
    """Prints the table."""
    print(f"| {' | '.join(HEADINGS)} |")
    print(f"|{'---|' * len(HEADINGS)}")
    shares: dict[float, float] = {}
    for minutes, folder in sorted(runs.items()):
        interval, student, teacher = kept(folder)
        shares[minutes] = interval.mean
        metrics = json.loads((folder / "metrics.json").read_text())
        answered, divergence, demands = metrics["models"], "", ""
        if answered:  # not where HellaSwag alone was measured
            divergence = f"{answered[metrics['trained']]['kl_to_teacher']:.2f}"
            own, of = (followed(folder, f"{arm}_greedy") for arm in ("trained", "warmed_up"))
            demands = f"{told(own)} (of {told(of)})"
        print(
            f"| {minutes:g} | {divergence} | {100 * student:.1f} (of {100 * teacher:.1f}) "
            f"| {told(interval)} | {demands} |"
        )
    shares.pop(0.0, None)  # which has no logarithm
    if len(shares) > 1:
        doubling, minutes = line_through(shares)
        print(
            f"\nA doubling of the minutes adds {100 * doubling:.1f} points; "
            f"the line is at {AS_DISTILBERT:.0%} after {minutes:,.0f} minutes."
        )


if __name__ == "__main__":
    try:
        pairs = [argument.split("=", 1) for argument in sys.argv[1:]]
        if not pairs or any(len(pair) < 2 for pair in pairs):
            raise UserError("give runs as MINUTES=FOLDER, such as 30=runs/kept_30.")
        main({float(minutes): Path(folder) for minutes, folder in pairs})
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
