"""The tables of verified demands of a comparison, computed again from its rows, as Markdown.

python docs/figures/demands.py comparison/demands.parquet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rankdistill.compare.demands import by_run, read
from rankdistill.compare.pages import verified_parts
from rankdistill.compare.verified import verified_tables
from rankdistill.errors import UserError


def main() -> int:
    """Prints what the comparison's pages show; exit code 2 on a person's mistake."""
    parser = argparse.ArgumentParser(description="Compute the tables of a comparison again.")
    parser.add_argument("demands", type=Path, help="demands.parquet of a comparison")
    try:
        rows = by_run(read(parser.parse_args().demands))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(verified_parts(verified_tables(rows))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
