"""What each stage did, and how the learning rate was chosen, as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rankdistill.report.table import Cell, Row, number
from rankdistill.store.manifest import each


def stage_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Stage, what, result (its counts), time, key; in order.

    Of a reused one the time that it took when it was made; and what a stage was made with, where
    that is another version than this run's, or one more.
    """
    return [
        [
            stage["stage"],
            stage["what"],
            counts(stage["counts"]),
            _time(stage),
            stage["key"],
        ]
        for stage in metrics["stages"]
    ]


def _time(stage: Mapping[str, Any]) -> str:
    others = ", ".join(f"{name} {of}" for name, of in stage.get("versions", {}).items())
    if stage["reused"]:
        made = f"reused, made in {duration(stage['making_seconds'])}"
    else:
        made = duration(stage["seconds"])
    return f"{made} with {others}" if others else made


def several_versions(runs: Iterable[Mapping[str, Any]]) -> str | None:
    """A warning where stages of the runs were made with different versions of a library.

    The store takes an output whatever made it, so a difference may be a library's.
    """
    made: dict[str, dict[str, set[str]]] = {}
    for metrics in runs:
        for library, version, stage in _made(metrics):
            made.setdefault(library, {}).setdefault(version, set()).add(stage)
    several = [
        f"{library} ("
        + "; ".join(f"{version}: {', '.join(sorted(by[version]))}" for version in sorted(by))
        + ")"
        for library, by in sorted(made.items())
        if len(by) > 1
    ]
    if not several:
        return None
    return f"Stages were made with different versions of {' and of '.join(several)}."


def _made(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(library, version, stage) of all stages of which it is known."""
    for stage in metrics["stages"]:
        if "versions" in stage or not stage["reused"]:
            versions = {**metrics["versions"], **stage.get("versions", {})}
            for name, joined in versions.items():
                yield from ((name, version, stage["stage"]) for version in each(joined))


def counts(values: Mapping[str, Any]) -> str:
    """`1200 read, 3 too long`: zeros too, since they answer questions."""
    parts = [
        f"{value if isinstance(value, int) else format(value, '.4g')} {name.replace('_', ' ')}"
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(parts)


def duration(seconds: float | None, *, roughly: bool = False) -> str:
    """`48 s`, `3 min 05 s`, `2 h 10 min`; `roughly`: minutes without seconds, of an estimate."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 and not roughly else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{round(seconds / 60)} min" if roughly else f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


Metrics = Mapping[str, Any]


def rate_title(metrics: Metrics) -> str:
    """The heading of the table."""
    return f"The learning rate, {metrics['learning_rates']['chosen']:g}, chosen by validation"


def rate_labels(metrics: Metrics) -> list[str]:
    """The columns: every value of the grid; none where there was no grid."""
    block = metrics.get("learning_rates")
    return [f"{tried['learning_rate']:g}" for tried in block["tried"]] if block else []


def rate_rows(metrics: Metrics) -> list[Row]:
    """What validation says of every value."""
    block = metrics.get("learning_rates")
    if not block:
        return []
    told = (
        f"The {block['what']}, {number(block['before'])} before training; the best is taken, of "
        "equals the smallest. The held-out prompts are not looked at."
    )
    failures = [f"{t['learning_rate']:g}: {t['failure']}" for t in block["tried"] if t["failure"]]
    cells = [Cell(number(tried["figure"], 4)) for tried in block["tried"]]
    return [Row("figure", "Validation", " ".join([told, *failures]), cells)]
