"""The tables in a terminal, plain when piped: columns that do not fit stand below the others, so
that no number is broken."""

from __future__ import annotations

import textwrap
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
from rankdistill.report.suites import suite_columns, suite_rows
from rankdistill.report.table import Cell, Grid, Line, Row, labels, table_rows
from rankdistill.report.verified import verified_grids
from rankdistill.report.verified_guards import guard_heads, guard_rows
from rankdistill.report.verified_sentences import judge_line

WIDTH = 100
_BESIDE_VERIFIED = (
    "score_difference",
    "kl_to_baseline",
    "entropy",
    "repetition",
    "response_tokens",
    "tokens_per_second",
)
"""Figures of the models that say something beside which demands are followed."""


def terminal_tables(metrics: Mapping[str, Any], width: int = WIDTH) -> list[Table]:
    """The figures of all models, on held-out rankings, and of a reward model, as far as any are; of
    a verified run first which demands are followed."""
    tables = _grids(metrics, width)

    def fit(title: str, heads: Sequence[str], rows: Sequence[Row], caption: str = "") -> None:
        tables.extend(_tables(title, caption, heads, rows, metrics, width))

    if rows := guard_rows(metrics):
        fit("Guards", [label for _, label in guard_heads(metrics)], rows)
    if metrics["models"]:
        caption = "Judged by its own teacher." if judge_warning(metrics) else ""
        trained = metrics["models"][metrics["trained"]]
        title = f"{trained['prompts']} held-out prompts, {trained['responses']} responses per model"
        fit(title, labels(metrics), _model_rows(metrics), caption)
    if rows := suite_rows(metrics, details=False):
        fit("Evaluation suites", list(suite_columns(metrics).values()), rows)
    if metrics.get("ranked_set") is not None:
        block = metrics["ranked_set"]
        title = f"{block['prompts']} held-out rankings, {block['pairs']} pairs"
        fit(title, ranked_labels(metrics), ranked_rows(metrics))
    if has_reward(metrics):
        fit(gate_title(metrics), GATE_COLUMNS, gate_rows(metrics))
    return tables


def print_tables(metrics: Mapping[str, Any], console: Console) -> None:
    """Prints the verdict and below it the tables to where the console prints: as wide as a terminal
    is, and 100 columns elsewhere, where nothing says how wide it may be."""
    width = console.width if console.is_terminal else max(console.width, WIDTH)
    out = Console(
        file=console.file, width=width, force_terminal=console.is_terminal, highlight=False
    )
    out.print(Text("\n".join(textwrap.wrap(headline(metrics), width)), style="bold"))
    out.print(*terminal_tables(metrics, width))


def _model_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """A row per figure of the models; of a verified run those that its other tables do not tell."""
    rows = table_rows(metrics)
    if metrics.get("verified"):
        rows = [_named(row) for row in rows if row.key in _BESIDE_VERIFIED]
    return rows


def _named(row: Row) -> Row:
    """A row that can be understood without the scores above it, which are left out."""
    return replace(row, title=f"Judge score {row.title}") if row.key == "score_difference" else row


def _grids(metrics: Mapping[str, Any], width: int) -> list[Table]:
    """Which demands are followed."""
    grids = verified_grids(metrics)
    captions = [judge_line(metrics) or "", *("" for _ in grids[1:])]
    pairs = zip(grids, captions, strict=False)
    return [table for grid, told in pairs for table in grid_tables(grid, told, width)]


def _tables(
    title: str,
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Row],
    metrics: Mapping[str, Any],
    width: int,
) -> list[Table]:
    """The table; where it is too wide several, each with as many of the columns as fit.

    Figures that compare have their interval in two rows below, which stays narrow.
    """
    first = max(len(row.title) for row in rows)
    spans = fitting([first, *_widths(heads, rows)], width)
    return [
        _table(
            title if span.start == 0 else "",
            caption if span.stop == len(heads) else "",
            heads[span],
            [replace(row, cells=row.cells[span]) for row in rows],
            metrics,
        )
        for span in spans
    ]


def _widths(heads: Sequence[str], rows: Sequence[Row]) -> list[int]:
    """Of every column: of its longest figure, or of the longest word of its heading."""
    return [
        max(longest_word(head), *(len(part) for row in rows for part in _parts(row.cells[place])))
        for place, head in enumerate(heads)
    ]


def _parts(cell: Cell) -> list[str]:
    return [*cell.value.split("\n"), cell.low, cell.high]


def _table(
    title: str,
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Row],
    metrics: Mapping[str, Any],
) -> Table:
    table = _framed(title, caption)
    table.add_column("", no_wrap=True)
    for head, least in zip(heads, _widths(heads, rows), strict=True):
        table.add_column(Text(head), justify="right", min_width=least)
    level = f"{100 * metrics['statistics']['interval_level']:.0f} %"
    for row in rows:
        values = (Text(c.value, style="bold" if c.beyond_noise else "") for c in row.cells)
        table.add_row(Text(row.title), *values)
        # Not the scores' own: prompts differ more than models do, and the difference has its own.
        if row.key != "score" and any(cell.low for cell in row.cells):
            table.add_row(f"  {level} from", *(c.low for c in row.cells), style="dim")
            table.add_row(f"  {'to':>{len(level) + 5}}", *(c.high for c in row.cells), style="dim")
    return table


def _framed(title: str, caption: str, gap: int = 1) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text(caption, style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )


def grid_tables(grid: Grid, caption: str = "", width: int = WIDTH) -> list[Table]:
    """The grid; where there is no room, columns stand closer, then intervals below their figures,
    and then columns below the others."""
    for between, gap in ((" ", 1), (" ", 0), ("\n", 1), ("\n", 0)):
        texts = [[_cell(cell, between) for cell in line.cells] for line in grid.lines]
        widths = _grid_widths(grid, texts)
        if len(spans := fitting(widths, width, gap)) == 1:
            break
    return [
        _grid_table(
            replace(
                grid,
                title=grid.title if span.start == 0 else "",
                about=grid.about if span.stop == len(grid.columns) else "",
                columns=grid.columns[span],
            ),
            [row[span] for row in texts],
            [widths[0], *widths[1:][span]],
            gap,
            caption if span.stop == len(grid.columns) else "",
        )
        for span in spans
    ]


def fitting(widths: Sequence[int], width: int, gap: int = 1) -> list[slice]:
    """The columns after the first in as few runs as fit beside it, each of one or more.

    Args:
        widths: Of all columns, the first among them.
        gap: Blanks between columns beside the one that the box has.
    """
    spans, start, used = [], 0, widths[0] + 2
    for place, own in enumerate(widths[1:]):
        used += own + 1 + gap
        if used > width and place > start:
            spans.append(slice(start, place))
            start, used = place, widths[0] + 2 + own + 1 + gap
    return [*spans, slice(start, len(widths) - 1)]


def _grid_table(
    grid: Grid, texts: Sequence[Sequence[Text]], widths: Sequence[int], gap: int, caption: str
) -> Table:
    table = _framed(grid.title, "\n".join(filter(None, (grid.about, caption))), gap)
    table.add_column("", no_wrap=True, min_width=widths[0])
    for column, width in zip(grid.columns, widths[1:], strict=True):
        heading = _filled(column.title, width)
        table.add_column(Text(heading), justify="right", no_wrap=True, min_width=width)
    for line, row in zip(grid.lines, texts, strict=True):
        table.add_row(_line_title(line, widths[0]), *row)
    return table


def _line_title(line: Line, width: int) -> Text:
    if line.cells:
        return Text(f"  {line.title}" if line.under else line.title)
    return Text(_filled(line.title, width), style="italic")


def _cell(cell: Cell, between: str) -> Text:
    text = Text(cell.value, style="bold" if cell.beyond_noise else "")
    return text.append(f"{between}[{cell.low}, {cell.high}]", "not bold dim") if cell.low else text


def _grid_widths(grid: Grid, texts: Sequence[Sequence[Text]]) -> list[int]:
    """Of every column: of its longest figure, or of the longest word of its heading.

    The first has the titles; those that stand above others may take several lines.
    """
    titles = [len(_line_title(line, WIDTH)) for line in grid.lines if line.cells]
    titles += [longest_word(line.title) for line in grid.lines if not line.cells]
    widths = [max(titles)]
    for place, column in enumerate(grid.columns):
        parts = [part for row in texts if row for part in row[place].plain.split("\n")]
        widths.append(max(longest_word(column.title), *map(len, parts)))
    return widths


def longest_word(title: str) -> int:
    """Columns that a heading needs when it is broken between words."""
    return max(map(len, title.split()))


def _filled(title: str, width: int) -> str:
    return textwrap.fill(title, width, break_long_words=False, break_on_hyphens=False)
