"""What the report says of who wrote the ranked responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.report.table import Cell, Row, interval_cell, percent

TITLE = "Who wrote the responses"


def writer_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The columns: the writers; none where there is one."""
    return list(_of(metrics).get("writers", {}))


def writer_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """How many each wrote, and what they win."""
    writers = _of(metrics).get("writers", {}).values()
    wins, best = interval_cell(percent, 0.5), interval_cell(percent)
    return [
        Row(
            "responses", "Responses", "That were ranked.",
            [Cell(str(writer["responses"])) for writer in writers],
        ),
        Row(
            "wins", "Wins",
            "Share of the pairs with another writer's response to the same prompt that it wins by "
            "the score, ties half; bold where the interval excludes 50 %.",
            [wins(writer["wins"]) for writer in writers],
        ),
        Row(
            "best", "Best of its prompt", "Share of the prompts where no other is better.",
            [best(writer["best"]) for writer in writers],
        ),
    ]  # fmt: skip


def writer_cautions(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, sentence): how often the stronger writer's response is the better one."""
    said = []
    for name, found in _of(metrics).get("held_against", {}).items():
        if found["better"] is None:
            continue
        better, worse = found["better"], found["worse"]
        noise = better["low"] is None or better["low"] <= worse["mean"]
        told = (
            f"Ranking: by {name}, the stronger writer's response is the better one in "
            f"{percent(better['mean'])} of the pairs of two writers and the worse in "
            f"{percent(worse['mean'])}"
        )
        more = ": the order of the writers says little." if noise else "."
        said.append(("warning" if noise else "plain", told + more))
    return said


def _of(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Runs from before there were writers have none."""
    return (metrics.get("ranking") or {}).get("writers") or {}
