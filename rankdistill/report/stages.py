"""What each stage did, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def stage_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Stage, what, result (its counts), time (of a reused one when it was made), key; in order."""
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
    if stage["reused"]:
        return f"reused, made in {duration(stage['making_seconds'])}"
    return duration(stage["seconds"])


def counts(values: Mapping[str, Any]) -> str:
    """`1200 read, 3 too long`: zeros too, since they answer questions."""
    parts = [
        f"{_short(value)} {name.replace('_', ' ')}"
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
