"""The part of the report on how the learning rate was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.report.table import Cell, Row, number

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
