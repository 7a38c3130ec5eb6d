"""A run's report: `metrics.json`, and a table, a Markdown file and an HTML page made from it.

metrics = write_report(report, folder)  # of a RunReport that the run has filled
print_tables(metrics, console)

``python -m rankdistill.report RUN_FOLDER`` makes the files again from `metrics.json`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.console import say
from rankdistill.report.answers import answer_rows, answers_file, answers_of, demands_file
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.metrics import FILE, metrics_bytes, metrics_of, read_metrics
from rankdistill.report.run_report import RunReport, StageRecord
from rankdistill.report.suite_items import suite_items_file
from rankdistill.report.summary import print_summary
from rankdistill.report.terminal import print_tables, terminal_tables
from rankdistill.store import home
from rankdistill.store.faults import ANOTHER_FOLDER, writing
from rankdistill.store.manifest import check_there
from rankdistill.store.removal import check_not_removed
from rankdistill.store.written import DIGESTS, begin, digests_of, put_files, replace_folder

__all__ = [
    "RunReport",
    "StageRecord",
    "metrics_of",
    "print_summary",
    "print_tables",
    "read_metrics",
    "render",
    "terminal_tables",
    "write_report",
]


def write_report(
    report: RunReport, folder: Path, folders: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Writes `config.yaml`, `answers.jsonl`, `report.md` and `report.html`, of a verified run
    `demands.parquet` as well, of suites `suites.parquet`, and at last `metrics.json`; returns the
    metrics.

    What a person has in their places is moved aside, with a line.

    Args:
        folders: What is copied beside them, by its name there: `model`, `ranked`.

    Raises:
        UserError: the folder cannot be written, or one of `folders` was removed from the store,
            whole or in part.
    """
    folders, metrics = folders or {}, metrics_of(report)
    answers = answer_rows(report.groups)
    files = {"config.yaml": report.config_yaml.encode(), **answers_file(answers)}
    if report.verified is not None:
        files |= demands_file(report.verified.rows)
    files |= suite_items_file(report.suite_items)
    files |= _pages(metrics, report.config_yaml, answers, folder)
    for source in folders.values():
        check_not_removed(source, home())
        check_there(source, home())
    with writing(folder, ANOTHER_FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        moved = begin(folder, folders, files)
        for name, source in folders.items():
            if (aside := replace_folder(source, folder / name)) is not None:
                moved.append((folder / name, aside))
        if folders:
            metrics[DIGESTS] = digests_of(folder, folders)
        moved += put_files(folder, {**files, FILE: metrics_bytes(metrics)})
    tell_moved(moved)
    return metrics


def render(metrics: Mapping[str, Any], config_yaml: str, folder: Path) -> None:
    """Writes `report.md` and `report.html` from what `metrics.json` and `answers.jsonl` hold.

    Raises:
        UserError: the folder cannot be written.
    """
    pages = _pages(metrics, config_yaml, answers_of(folder), folder)
    with writing(folder, "make it writable or make space"):
        tell_moved(put_files(folder, pages))


def _pages(
    metrics: Mapping[str, Any],
    config_yaml: str,
    answers: Sequence[Mapping[str, Any]],
    folder: Path,
) -> dict[str, bytes]:
    place = shown(folder)
    pages = {
        "report.md": markdown_report(metrics, config_yaml, place),
        "report.html": html_report(metrics, config_yaml, answers, place),
    }
    # Half a surrogate pair, which an imported data set can hold, has no UTF-8.
    return {name: page.encode("utf-8", errors="replace") for name, page in pages.items()}


def tell_moved(moved: Sequence[tuple[Path, Path]]) -> None:
    """A line for each file that was in the place of one of ours, and where it is now."""
    for place, aside in moved:
        say(f"{shown(place)} is not as a run wrote it, so it is kept as {shown(aside)}")


def shown(path: Path) -> str:
    """The path as short as it can be said from the working directory."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
