"""Finished runs compared: `report.html`, `report.md` and `results.csv`, and where all of them were
verified, `demands.parquet`.

written = compare([Path("multirun/recipe=rrhf,dpo")], Path("comparison"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FILES = ("report.html", "report.md", "results.csv", "demands.parquet")


def compare(folders: Sequence[Path], to: Path, contrasts: Sequence[str] | None = None) -> Path:
    """As `compare_and_tell`, without the sentence."""
    return compare_and_tell(folders, to, contrasts)[0]


def compare_and_tell(
    folders: Sequence[Path], to: Path, contrasts: Sequence[str] | None = None
) -> tuple[Path, str]:
    """Compares the runs in the folders; the page that it wrote into `to`, and who won; of planned
    contrasts a line each.

    What a person has in the places of its files is moved aside, with a line.

    Args:
        folders: Of finished runs; a sweep's folder stands for all runs in it.
        to: Is made where it is not there.
        contrasts: Named before the run, as `dpo-rrhf` or `dpo-control`; None: those that the runs'
            configurations name (`contrasts`).

    Raises:
        UserError: runs that cannot be compared, too few of them, a contrast that is not of these
            runs, or `to` is a run's folder or cannot be written.
    """
    from rankdistill.compare import demands
    from rankdistill.compare.comparison import compare_runs
    from rankdistill.compare.pages import html_report, markdown_report
    from rankdistill.compare.runs import read_runs
    from rankdistill.compare.sentences import told_in_terminal
    from rankdistill.compare.tables import results_csv
    from rankdistill.errors import UserError
    from rankdistill.report import tell_moved
    from rankdistill.store.faults import writing
    from rankdistill.store.words import counted
    from rankdistill.store.written import METRICS, put_files

    read = read_runs(folders)
    if (to / METRICS).is_file():
        raise UserError(f"{to} is the folder of a run; give another folder with --to.")
    comparison = compare_runs(read, contrasts)
    runs = sum(len(objective.runs) for objective in comparison.objectives)
    title = f"{counted(len(comparison.objectives), 'objective')}, {counted(runs, 'run')}"
    named = "".join(f" --contrast {_shell([name])}" for name in contrasts or ())
    command = f"python -m rankdistill.compare {_shell(folders)} --to {_shell([to])}{named}"
    pages = {
        "report.html": html_report(comparison, title, command),
        "report.md": markdown_report(comparison, title, command),
        "results.csv": results_csv(comparison),
    }
    with writing(to, "make it writable or make space, or give another folder with --to"):
        to.mkdir(parents=True, exist_ok=True)
        # Half a surrogate pair, which an imported data set can hold, has no UTF-8.
        files = {name: text.encode("utf-8", errors="replace") for name, text in pages.items()}
        if comparison.demands is None:
            demands.remove_earlier(to)
        else:
            files[demands.DEMANDS] = demands.parquet_bytes(comparison.demands)
        tell_moved(put_files(to, files))
    return to / "report.html", told_in_terminal(comparison)


def _shell(paths: Sequence[Path | str]) -> str:
    import shlex

    return shlex.join(map(str, paths))
