"""Run folders below a folder, each with its state and what its student gained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.errors import FAILURE, UserError

FOLDERS = ("runs", "multirun")
"""Where the command writes, in the working directory."""
METRICS = "metrics.json"
BEGUN = ".hydra/overrides.yaml"
"""Hydra writes it when a run begins."""
DEPTH = 3
"""Folders below the one that is given, at which a run is looked for: multirun/SWEEP/POINT."""


@dataclass(frozen=True)
class ListedRun:
    """A run folder."""

    folder: Path
    state: str
    """`finished`, `failed`, or `not finished`: it runs, or was stopped."""
    trained: str
    """How its student was trained; empty before that is known."""
    lead: str
    """Of the trained student over the one before training, with its interval."""
    age_seconds: float


def list_runs(folders: Sequence[Path]) -> list[ListedRun]:
    """The runs in the folders, the newest first.

    Raises:
        UserError: no such folder.
    """
    found: dict[Path, ListedRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"There is no folder '{folder}': give one that holds runs.")
        found |= {path: _listed(path) for path in _run_folders(folder, DEPTH)}
    return sorted(found.values(), key=lambda run: run.age_seconds)


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in (METRICS, FAILURE, BEGUN)):
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _run_folders(inner, depth - 1)


def _listed(folder: Path) -> ListedRun:
    times = {
        name: (folder / name).stat().st_mtime if (folder / name).is_file() else 0.0
        for name in (METRICS, FAILURE, BEGUN)
    }
    state = "not finished"
    # A run that is started again writes `.hydra` first, and its figures last.
    if times[FAILURE] > times[METRICS]:
        state = "failed"
    elif times[METRICS] >= times[BEGUN]:
        state = "finished"
    trained, lead = _told(folder) if times[METRICS] else ("", "")
    # The clock may have been put back since.
    age = max(0.0, time.time() - max(times.values()))
    return ListedRun(folder, state, trained, lead, age)


def _told(folder: Path) -> tuple[str, str]:
    from rankdistill.report.metrics import read_metrics

    try:
        metrics = read_metrics(folder)
        return str(metrics["title"]).partition(":")[0], _lead(metrics)
    except (UserError, KeyError, TypeError):
        return "", "figures cannot be read"


def _lead(metrics: Mapping[str, Any]) -> str:
    from rankdistill.report.table import interval_text, points, signed

    verified = metrics.get("verified")
    if verified and verified.get("headline"):
        gain = verified["contrasts"][verified["headline"]]["trained"]
        return f"{interval_text(gain, points)} points"
    if not metrics["models"]:
        return ""
    gain = metrics["models"][metrics["trained"]]["score_difference"]
    return interval_text(gain, signed) if gain else ""
