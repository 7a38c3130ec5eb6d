"""``python -m rankdistill.runs [DIR...]``: a line for each run, the newest first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rankdistill import shell
from rankdistill.runs.listing import FOLDERS, ListedRun, list_runs


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; exit code 2 on a person's mistake."""
    given = _parser().parse_args(arguments)
    folders = given.folders or [Path(name) for name in FOLDERS if Path(name).is_dir()]
    runs = list_runs(folders)
    if given.json:
        json.dump([asdict(run) | {"folder": str(run.folder)} for run in runs], sys.stdout, indent=1)
        print()
    elif runs:
        _show(runs)
    else:
        print("No runs here: `python -m rankdistill` lists the recipes to begin with.")
    return 0


def _show(runs: Sequence[ListedRun]) -> None:
    """A line per run; where there is no room for its name, which is typed again, two lines."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    from rankdistill.store.words import age_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("run", "state", "trained by", "gain, with interval"):
        table.add_column(head, no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    styles = {"finished": "green", "failed": "red"}
    for run in runs:
        state = Text(run.state, style=styles.get(run.state, "yellow"))
        age = age_text(run.age_seconds)
        table.add_row(Text(str(run.folder)), state, run.trained, Text(run.lead), age)
    piped = not sys.stdout.isatty()
    out = Console(width=100_000 if piped else None, highlight=False, no_color=piped or None)
    if Measurement.get(out, out.options.update(max_width=100_000), table).maximum <= out.width:
        out.print(table)
        return
    for run in runs:
        out.print(Text(str(run.folder)), soft_wrap=True)
        told = (run.trained, run.lead, age_text(run.age_seconds))
        state = Text(f"  {run.state}", style=styles.get(run.state, "yellow"))
        out.print(Text.assemble(state, *(f"   {word}" for word in told if word)))


def _parser() -> argparse.ArgumentParser:
    parser = shell.parser(
        "runs",
        "List runs: state, objective, what the trained student gains over the one "
        "before training, age.",
        epilog="name=NAME of a command names its folder; `python -m rankdistill.compare` takes the "
        "folders.",
    )
    parser.add_argument(
        "folders", metavar="DIR", type=Path, nargs="*",
        help="folders that hold runs (runs and multirun)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    sys.exit(shell.run(main))
