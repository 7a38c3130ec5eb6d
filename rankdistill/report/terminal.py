"""The tables in a terminal: within 80 columns for five models, plain when piped; those of a
verified run within 100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankdistill.report.headline import headline, judge_warning
from rankdistill.report.ranked import ranked_labels, ranked_rows
from rankdistill.report.reward import GATE_COLUMNS, gate_rows, gate_title, has_reward
from rankdistill.report.suites import suite_heads, suite_rows
from rankdistill.report.table import Row, labels, table_rows
from rankdistill.report.terminal_grid import WIDTH, grid_table
from rankdistill.report.verified_guards import guard_heads, guard_rows
from rankdistill.report.verified_sentences import judge_line
from rankdistill.report.verified_tables import verified_grids

_BESIDE_VERIFIED = (
    "score_difference",
    "kl_to_baseline",
    "entropy",
    "repetition",
    "response_tokens",
    "tokens_per_second",
)
"""Figures of the models that say something beside which demands are followed."""


def terminal_tables(metrics: Mapping[str, Any]) -> list[Table | Text]:
    """The figures of all models, on held-out rankings, and of a reward model, as far as any are.

    Of a verified run first which demands are followed, and last the sentence that says it.
    """
    tables: list[Table | Text] = [*_verified(metrics)]
    if metrics["models"]:
        tables.append(terminal_table(metrics))
    if rows := suite_rows(metrics, details=False):
        heads = list(suite_heads(metrics).values())
        tables.append(_table("Evaluation suites", "", heads, rows, metrics))
    if metrics.get("ranked_set") is not None:
        block = metrics["ranked_set"]
        title = f"{block['prompts']} held-out rankings, {block['pairs']} pairs"
        tables.append(_table(title, "", ranked_labels(metrics), ranked_rows(metrics), metrics))
    if has_reward(metrics):
        tables.append(_table(gate_title(metrics), "", GATE_COLUMNS, gate_rows(metrics), metrics))
    if metrics.get("verified"):
        tables.append(Text(headline(metrics)))
    return tables


def print_tables(metrics: Mapping[str, Any], console: Console) -> None:
    """Prints them to where the console prints, as wide as they need to be: a pipe claims 80 columns
    and would cut numbers off, since Rich takes a width no larger than the console's own."""
    wide = Console(file=console.file, width=max(console.width, WIDTH), highlight=False)
    wide.print(*terminal_tables(metrics))


def terminal_table(metrics: Mapping[str, Any]) -> Table:
    """The figures of all models: one column per model, one row per figure.

    Figures that compare have their interval in two rows below, which stays narrow: a pipe has 80
    columns. metrics: the content of `metrics.json`.
    """
    rows = table_rows(metrics)
    if metrics.get("verified"):
        rows = [_named(row) for row in rows if row.key in _BESIDE_VERIFIED]
    return _table(_title(metrics), _caption(metrics), labels(metrics), rows, metrics)


def _named(row: Row) -> Row:
    """A row that can be understood without the scores above it, which are left out."""
    return replace(row, title=f"Judge score {row.title}") if row.key == "score_difference" else row


def _verified(metrics: Mapping[str, Any]) -> list[Table]:
    """Which demands are followed, and the guards."""
    grids = verified_grids(metrics)
    captions = [judge_line(metrics) or "", *("" for _ in grids[1:])]
    tables = [grid_table(grid, told) for grid, told in zip(grids, captions, strict=False)]
    if rows := guard_rows(metrics):
        heads = [label for _, label in guard_heads(metrics)]
        tables.append(_table("Guards", "", heads, rows, metrics))
    return tables


def _table(
    title: str,
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Row],
    metrics: Mapping[str, Any],
) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text(caption, style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(Text(head), justify="right", overflow="fold")
    level = f"{100 * metrics['statistics']['interval_level']:.0f} %"
    for row in rows:
        values = (Text(c.value, style="bold" if c.beyond_noise else "") for c in row.cells)
        table.add_row(Text(row.title), *values)
        if _shows_interval(row):
            table.add_row(f"  {level} from", *(c.low for c in row.cells), style="dim")
            table.add_row(f"  {'to':>{len(level) + 5}}", *(c.high for c in row.cells), style="dim")
    return table


def _shows_interval(row: Row) -> bool:
    """Not the scores' own: prompts differ more than models do, and the difference has its own."""
    return row.key != "score" and any(cell.low for cell in row.cells)


def _title(metrics: Mapping[str, Any]) -> str:
    trained = metrics["models"][metrics["trained"]]
    return f"{trained['prompts']} held-out prompts, {trained['responses']} responses per model"


def _caption(metrics: Mapping[str, Any]) -> str:
    return "Judged by its own teacher." if judge_warning(metrics) else ""
