"""Every table of figures that a page has, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rankdistill.report.ranked import ranked_labels, ranked_rows
from rankdistill.report.ranking import (
    WRITERS,
    ranking_labels,
    ranking_rows,
    writer_labels,
    writer_rows,
)
from rankdistill.report.reward import GATE_COLUMNS, gate_rows, gate_title, has_reward, reward_rows
from rankdistill.report.stages import rate_labels, rate_rows, rate_title
from rankdistill.report.suites import set_labels, set_rows, suite_columns, suite_rows
from rankdistill.report.table import Row, labels, table_rows
from rankdistill.report.verified_guards import guard_heads, guard_rows

Heads = list[tuple[str, str]]
"""(name, heading) of the columns; the name is the model's where they are models."""
RANKING = "The ranking it was trained on"


class FigureTable(NamedTuple):
    """A table with a column for each model, scorer, writer, set or learning rate."""

    title: str
    heads: Heads
    rows: Sequence[Row]


def figure_tables(metrics: Mapping[str, Any]) -> Iterator[FigureTable]:
    """The tables that there are figures for."""
    models = list(zip(metrics["models"], labels(metrics), strict=True))
    if rows := guard_rows(metrics):
        yield FigureTable("Guards", guard_heads(metrics), rows)
    if models:
        yield FigureTable("Figures", models, table_rows(metrics))
    if names := set_labels(metrics):
        yield FigureTable("By set of prompts", _named(names), set_rows(metrics))
    if rows := suite_rows(metrics):
        yield FigureTable("Evaluation suites", list(suite_columns(metrics).items()), rows)
    if metrics.get("ranked_set") is not None:
        heads = zip(metrics["ranked_set"]["models"], ranked_labels(metrics), strict=True)
        yield FigureTable("Held-out rankings", list(heads), ranked_rows(metrics))
    if metrics.get("ranking"):
        yield FigureTable(RANKING, _named(ranking_labels(metrics)), ranking_rows(metrics))
    if names := writer_labels(metrics):
        yield FigureTable(WRITERS, _named(names), writer_rows(metrics))
    if has_reward(metrics):
        yield FigureTable(gate_title(metrics), _named(GATE_COLUMNS), gate_rows(metrics))
        if rows := reward_rows(metrics):
            yield FigureTable("Reward and teacher", models, rows)
    if names := rate_labels(metrics):
        yield FigureTable(rate_title(metrics), _named(names), rate_rows(metrics))


def _named(names: Sequence[str]) -> Heads:
    return [(name, name) for name in names]
