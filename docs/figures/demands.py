"""The tables of verified demands of a comparison, computed again from its rows, as Markdown.

python docs/figures/demands.py comparison/demands.parquet [--contrast DPO-RRHF]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from rankdistill.compare.contrasts import (
    Named,
    contrasts_of,
    over_own_demands,
    planned_and_rest,
)
from rankdistill.compare.demands import by_run, read
from rankdistill.compare.pages import difference_parts, planned_parts, verified_parts
from rankdistill.compare.tables import about_verified_differences, rows_of, rows_of_planned
from rankdistill.compare.verified import verified_tables
from rankdistill.errors import UserError
from rankdistill.report.table import points


def main() -> int:
    """Prints what the comparison's pages show; exit code 2 on a person's mistake."""
    parser = argparse.ArgumentParser(description="Compute the tables of a comparison again.")
    parser.add_argument("demands", type=Path, help="demands.parquet of a comparison")
    parser.add_argument(
        "--contrast", action="append", default=[], help="that the comparison planned, by its labels"
    )
    given = parser.parse_args()
    try:
        verified = verified_tables(by_run(read(given.demands)))
        contrasts = contrasts_of(given.contrast, [Named(label) for label in verified.figures])
        planned, pairs = planned_and_rest(
            contrasts, verified.differences, partial(over_own_demands, verified)
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    named = {contrast.pair for contrast in contrasts}
    rest = [d for d in pairs if frozenset((d.better, d.worse)) not in named]
    parts = [
        *planned_parts(rows_of_planned(planned, points)),
        *verified_parts(verified),
        *difference_parts(
            rows_of(rest, points), about_verified_differences(verified), "Differences"
        ),
    ]
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
