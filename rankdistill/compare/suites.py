"""Rows for evaluation suites: what the trained students get in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rankdistill.compare.figures import FigureRow, share
from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.runs import FinishedRun
from rankdistill.report.table import number


def suite_rows(objectives: list[ObjectiveRuns]) -> list[FigureRow]:
    """A row per figure of the suites that all runs measured alike; parts of figures are left out.

    The means are over runs. Their intervals, over a suite's items, are in the runs' own reports.
    """
    runs = [run for objective in objectives for run in objective.runs]
    return [
        FigureRow(
            f"{suite}.{key}",
            figure["title"],
            f"{figure['meaning']} {about}.",
            share if figure["share"] else number,
            lambda run, suite=suite, key=key: _figures(run, suite).get(key, {}).get("mean"),
        )
        for suite, about in _measured_alike(runs)
        for key, figure in _known(runs, suite).items()
        if not figure["detail"]
    ]


def _measured_alike(runs: list[FinishedRun]) -> Iterator[tuple[str, str]]:
    """Suite and how it was measured: the same version, number of shots, limit, ... in all runs."""
    first, *others = [run.metrics.get("suites") or {} for run in runs]
    for name, suite in first.items():
        how = (suite["version"], suite["about"])
        if all(
            name in other and (other[name]["version"], other[name]["about"]) == how
            for other in others
        ):
            yield name, suite["about"]


def _known(runs: list[FinishedRun], suite: str) -> dict[str, Any]:
    return {key: figure for run in runs for key, figure in _figures(run, suite).items()}


def _figures(run: FinishedRun, suite: str) -> Mapping[str, Any]:
    """Of the trained student, by key."""
    return (run.metrics["suites"][suite]["models"].get(run.metrics["trained"]) or {"figures": {}})[
        "figures"
    ]
