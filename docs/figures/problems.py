"""Who solves how many of the held-out word problems, from the rows of runs, as Markdown.

    python docs/figures/problems.py "one round=runs/problems" "gold=runs/problems_gold"

Several runs of a label, as in `"gold=multirun/sweep/a" "gold=multirun/sweep/b"`, are seeds: their
answers to a problem count together. The teacher's ways are those of the first label. Intervals are
95 %, over problems, as in the report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rankdistill.errors import UserError
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
    """Right last numbers, of the first of these arms that the runs have.

    Raises:
        UserError: they have none of them.
    """
    rows = [row for folder in folders for row in _rows(folder) if row["kind"] == "number"]
    for arm in arms:
        found = tally([DemandRow(**row) for row in rows if row["arm"] == arm])
        if found is not None:
            return found
    where = ", ".join(map(str, folders))
    raise UserError(f"{where} has no answers of {' or '.join(arms)}: give runs of recipe=problems.")


def _rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / "demands.parquet"
    if not file.is_file():
        raise UserError(
            f"There is no {file}: give the folder of a finished run of recipe=problems."
        )
    return pq.read_table(file).to_pylist()


def told(of: Interval | None, form: str = ".1f") -> str:
    """In per cent, with the interval."""
    assert of is not None and of.low is not None and of.high is not None
    return f"{100 * of.mean:{form}} [{100 * of.low:{form}}, {100 * of.high:{form}}]"


def table(runs: Mapping[str, Sequence[Path]]) -> None:
    """Prints it."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    runs: dict[str, list[Path]] = {}
    for given in parser.parse_args().runs:
        label, named, run = given.partition("=")
        if not named:
            raise UserError(f"'{given}' has no label: write 'ours={given}'.")
        runs.setdefault(label, []).append(Path(run))
    table(runs)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
