"""What the stages of a comparison were made with, where that differs."""

from __future__ import annotations

from collections.abc import Iterator

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.runs import FinishedRun
from rankdistill.report.headline import Finding


def of_several_versions(comparison: Comparison) -> Finding | None:
    """A warning where stages were made with different versions of a library.

    The store takes an output whatever made it, so a difference may be a library's.
    """
    made: dict[str, dict[str, set[str]]] = {}
    for run in (run for objective in comparison.objectives for run in objective.runs):
        for library, version, stage in _made(run):
            made.setdefault(library, {}).setdefault(version, set()).add(stage)
    told = [
        f"{library} ("
        + "; ".join(f"{version}: {', '.join(sorted(by[version]))}" for version in sorted(by))
        + ")"
        for library, by in sorted(made.items())
        if len(by) > 1
    ]
    if not told:
        return None
    return Finding(
        "warning", f"Stages were made with different versions of {' and of '.join(told)}."
    )


def _made(run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    """(library, version, stage) of all stages of which it is known."""
    for stage in run.metrics["stages"]:
        if "versions" in stage or not stage["reused"]:
            versions = {**run.metrics["versions"], **stage.get("versions", {})}
            yield from ((name, version, stage["stage"]) for name, version in versions.items())
