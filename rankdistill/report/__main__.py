"""``python -m rankdistill.report RUN_FOLDER``: the report again, from `metrics.json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rankdistill import shell
from rankdistill.report import print_tables, read_metrics, render
from rankdistill.store.inputs import read_text


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes `report.md` and `report.html` into the folder and prints the table; exit code 2 on a
    person's mistake."""
    parser = shell.parser(
        "report",
        "Write report.md and report.html of a run again, from its metrics.json and config.yaml.",
    )
    parser.add_argument("folder", type=Path, help="folder of a finished run")
    folder: Path = parser.parse_args(arguments).folder
    metrics = read_metrics(folder)
    render(metrics, read_text(folder / "config.yaml", "the run's configuration"), folder)
    console = Console(highlight=False)
    print_tables(metrics, console)
    console.print(f"{folder / 'report.html'}\n{folder / 'report.md'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
