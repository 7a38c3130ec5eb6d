"""Who solves how many of the held-out word problems, from the rows of runs, as Markdown.

    python docs/figures/problems.py "one round=runs/problems" "gold=runs/problems_gold"

Several runs of a label, as in `one round=multirun/a,multirun/b`, are seeds: their answers to a
problem count together. The teacher's ways are those of the first label. Intervals are 95 %, over
problems, as in the report.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from rankdistill.evaluate.verified import DemandRow, Tally, difference, share, tally
from rankdistill.statistics import Interval

TEACHER = {
    "teacher, sampled": "teacher",
    "teacher, greedy": "teacher_greedy",
    "teacher, majority of 8": "teacher_majority",
    "teacher, four examples": "teacher_examples",
}
AGAINST = ("teacher, greedy", "teacher, four examples")


def solved(folders: Sequence[Path], *arms: str) -> Tally:
    """Right last numbers, of the first of these arms that the runs have."""
    rows = [row for f in folders for row in pq.read_table(f / "demands.parquet").to_pylist()]
    arm = next(arm for arm in arms if any(row["arm"] == arm for row in rows))
    kept = [DemandRow(**row) for row in rows if row["arm"] == arm and row["kind"] == "number"]
    found = tally(kept)
    assert found is not None
    return found


def told(of: Interval | None, form: str = ".1f") -> str:
    """In per cent, with the interval."""
    assert of is not None and of.low is not None and of.high is not None
    return f"{100 * of.mean:{form}} [{100 * of.low:{form}}, {100 * of.high:{form}}]"


def main(runs: Mapping[str, Sequence[Path]]) -> None:
    first = next(iter(runs.values()))
    lines = {label: solved(first, arm) for label, arm in TEACHER.items()}
    lines["warmed up, greedy"] = solved(first, "warmed_up_greedy")
    for label, folders in runs.items():
        lines[f"{label}, greedy"] = solved(folders, "trained_greedy", "warmed_up_greedy")
    print(f"| | right, % | {' | '.join(f'minus {label}' for label in AGAINST)} |")
    print(f"|---|---|{'---|' * len(AGAINST)}")
    for label, line in lines.items():
        minus = [
            "" if label in TEACHER else told(difference(line, lines[other], seed=0), "+.1f")
            for other in AGAINST
        ]
        print(f"| {label} | {told(share(line, seed=0))} | {' | '.join(minus)} |")


if __name__ == "__main__":
    given = (one.partition("=") for one in sys.argv[1:])
    main({label: [Path(run) for run in of.split(",")] for label, _, of in given})
