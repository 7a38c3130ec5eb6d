"""Who solves how many of the held-out word problems, from the rows of runs, as Markdown.

    python docs/figures/problems.py "one round=runs/problems" "gold=runs/problems_gold"

Several runs of a label, as in `one round=multirun/a,multirun/b`, are seeds: a problem's share is
their mean. The teacher's ways are those of the first run. Intervals are 95 %, over problems.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rankdistill.statistics import mean_interval

TEACHER = {
    "teacher, sampled": "teacher",
    "teacher, greedy": "teacher_greedy",
    "teacher, majority of 8": "teacher_majority",
    "teacher, four examples": "teacher_examples",
}
AGAINST = ("teacher, greedy", "teacher, four examples")
Solved = Mapping[str, float]
"""By problem: the share of its answers whose last number is right."""


def solved(folders: Sequence[Path], *arms: str) -> Solved:
    """Of the first of these arms that the runs have; empty where they have none."""
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in arms}
    for folder in folders:
        for row in pq.read_table(folder / "demands.parquet").to_pylist():
            if row["arm"] in found and row["kind"] == "number":
                found[row["arm"]].setdefault(row["cluster"], []).append(row["followed"])
    first: Mapping[str, list[float]] = next(filter(None, found.values()), {})
    return {problem: float(np.mean(shares)) for problem, shares in first.items()}


def told(values: Sequence[float], form: str = ".1f") -> str:
    """A mean in per cent, with its interval."""
    of = mean_interval([100 * value for value in values], seed=0)
    return f"{of.mean:{form}} [{of.low:{form}}, {of.high:{form}}]"


def main(runs: Mapping[str, Sequence[Path]]) -> None:
    first = next(iter(runs.values()))
    lines = {label: solved(first[:1], arm) for label, arm in TEACHER.items()}
    lines["warmed up, greedy"] = solved(first, "warmed_up_greedy")
    for label, folders in runs.items():
        lines[f"{label}, greedy"] = solved(folders, "trained_greedy", "warmed_up_greedy")
    print(f"| | right, % | {' | '.join(f'minus {label}' for label in AGAINST)} |")
    print(f"|---|---|{'---|' * len(AGAINST)}")
    for label, line in lines.items():
        minus = [
            "" if label in TEACHER else told([line[p] - lines[other][p] for p in line], "+.1f")
            for other in AGAINST
        ]
        print(f"| {label} | {told([*line.values()])} | {' | '.join(minus)} |")


if __name__ == "__main__":
    given = (one.partition("=") for one in sys.argv[1:])
    main({label: [Path(run) for run in of.split(",")] for label, _, of in given})
