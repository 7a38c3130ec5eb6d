"""A `Grid` in a terminal: no number is ever broken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from rankdistill.report.grid import Grid, Line
from rankdistill.report.table import Cell

WIDTH = 100


def grid_tables(grid: Grid, caption: str = "", width: int = WIDTH) -> list[Table]:
    """The grid; where there is no room, columns stand closer, then intervals below their figures,
    and then columns below the others."""
    for between, gap in ((" ", 1), (" ", 0), ("\n", 1), ("\n", 0)):
        texts = [[_cell(cell, between) for cell in line.cells] for line in grid.lines]
        widths = _widths(grid, texts)
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
    table = Table(
        title=Text(grid.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(filter(None, (grid.about, caption))), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True, min_width=widths[0])
    for column, width in zip(grid.columns, widths[1:], strict=True):
        heading = _filled(column.title, width)
        table.add_column(Text(heading), justify="right", no_wrap=True, min_width=width)
    for line, row in zip(grid.lines, texts, strict=True):
        table.add_row(_title(line, widths[0]), *row)
    return table


def _title(line: Line, width: int) -> Text:
    if line.cells:
        return Text(f"  {line.title}" if line.under else line.title)
    return Text(_filled(line.title, width), style="italic")


def _cell(cell: Cell, between: str) -> Text:
    text = Text(cell.value, style="bold" if cell.beyond_noise else "")
    return text.append(f"{between}[{cell.low}, {cell.high}]", "not bold dim") if cell.low else text


def _widths(grid: Grid, texts: Sequence[Sequence[Text]]) -> list[int]:
    """Of every column: of its longest figure, or of the longest word of its heading.

    The first has the titles; those that stand above others may take several lines.
    """
    titles = [len(_title(line, WIDTH)) for line in grid.lines if line.cells]
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
