"""The part of the report on evaluation suites: one column per model, one row per figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rankdistill.report.table import Cell, Row, interval_cell, number

Metrics = Mapping[str, Any]


def suite_heads(metrics: Metrics) -> dict[str, str]:
    """Headings of the columns by name: all that any suite measured."""
    return {
        name: model["label"]
        for suite in _suites(metrics).values()
        for name, model in suite["models"].items()
    }


def suite_rows(metrics: Metrics, *, details: bool = True) -> list[Row]:
    """The rows of the table.

    Args:
        details: With the figures that are parts of others.
    """
    names = list(suite_heads(metrics))
    rows = []
    for suite_name, suite in _suites(metrics).items():
        known = {
            key: f for model in suite["models"].values() for key, f in model["figures"].items()
        }
        for key, figure in known.items():
            if figure["detail"] and not details:
                continue
            found = [suite["models"].get(n, {"figures": {}})["figures"].get(key) for n in names]
            text = _share if figure["share"] else number
            explanation = f"{figure['meaning']} {suite['about']}."
            cells = [interval_cell(text)(f) if f else Cell("-") for f in found]
            rows.append(Row(f"{suite_name}.{key}", figure["title"], explanation, cells))
    return rows


def suite_headline(metrics: Metrics) -> str:
    """One sentence where nothing else was measured."""
    models = ", ".join(suite_heads(metrics).values())
    return f"{' and '.join(_suites(metrics))} of: {models}."


def suite_cautions(metrics: Metrics) -> list[str]:
    """A sentence for what was set aside."""
    return list(_set_aside(metrics))


def _set_aside(metrics: Metrics) -> Iterator[str]:
    for name, suite in _suites(metrics).items():
        for model in suite["models"].values():
            if count := model["counts"].get("set_aside"):
                what = "item" if count == 1 else "items"
                yield f"{name}, {model['label']}: {count:.0f} {what} set aside and not averaged."


def _suites(metrics: Metrics) -> Mapping[str, Any]:
    return metrics.get("suites") or {}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
