"""What became of a suite's figures in training, computed again from a run's items, as Markdown.

python docs/figures/suites.py RUN/suites.parquet [--from 120] [--to 541] [--against OTHER]

With another run's suites.parquet its trained model, a placebo's for example, stands in the place of
the one before training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.evaluate.items import change
from rankdistill.report.suite_items import read_suite_items
from rankdistill.report.table import points, share_percent


def rows(path: Path, start: int, end: int | None, against: Path | None = None) -> Iterator[str]:
    """A line for each figure that both models have. UserError: no item is in the range."""
    yield f"| figure | items | {'the other' if against else 'before'} | after | change in points |"
    yield "|---|---:|---:|---:|---:|"
    others = read_suite_items(against or path)
    for suite, figures in read_suite_items(path).items():
        for key, models in figures.items():
            held = others.get(suite, {}).get(key, {}).get("trained" if against else "warmed_up")
            if held is None or "trained" not in models:
                continue
            # In the order of the suite's own data.
            ids = models["trained"].ids[start:end]
            after, before = models["trained"].on(ids), held.on(ids)
            if (found := change(after, before)) is None:
                raise UserError(f"there are no items from {start} on: {suite} has fewer.")
            interval = (
                "" if found.low is None else f" ({points(found.low)} to {points(found.high)})"
            )
            figures_told = " | ".join(share_percent(of.mean) for of in (before, after))
            told = f"{points(found.mean)}{interval}"
            yield f"| {suite}: {key} | {len(ids)} | {figures_told} | {told} |"


def main() -> int:
    """Prints the table; exit code 2 on a person's mistake."""
    parser = argparse.ArgumentParser(description="Compute the changes of suites again.")
    parser.add_argument("items", type=Path, help="suites.parquet of a run")
    parser.add_argument("--from", dest="start", type=int, default=0, help="first item, from 0")
    parser.add_argument("--to", dest="end", type=int, default=None, help="item to stop before")
    parser.add_argument(
        "--against", type=Path, help="suites.parquet of another run, whose trained model is taken"
    )
    given = parser.parse_args()
    try:
        print("\n".join([*rows(given.items, given.start, given.end, given.against)]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
