"""A `Grid` in a terminal: within 100 columns, and no number is ever broken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from rankdistill.report.grid import Grid, Line
from rankdistill.report.table import Cell

WIDTH = 100


def grid_table(grid: Grid, caption: str = "") -> Table:
    """The grid; where there is no room, columns stand closer, or intervals below their figures."""
    for between, gap in ((" ", 1), (" ", 0), ("\n", 1), ("\n", 0)):
        texts = [[_cell(cell, between) for cell in line.cells] for line in grid.lines]
        widths = _widths(grid, texts)
        # The box adds a blank at both ends and between columns.
        if sum(widths) + len(widths) + 1 + gap * (len(widths) - 1) <= WIDTH:
            break
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
    titles += [_longest_word(line.title) for line in grid.lines if not line.cells]
    widths = [max(titles)]
    for place, column in enumerate(grid.columns):
        parts = [part for row in texts if row for part in row[place].plain.split("\n")]
        widths.append(max(_longest_word(column.title), *map(len, parts)))
    return widths


def _longest_word(title: str) -> int:
    return max(map(len, title.split()))


def _filled(title: str, width: int) -> str:
    return textwrap.fill(title, width, break_long_words=False, break_on_hyphens=False)
