"""A `Grid` in a terminal: within 100 columns, and no number is ever broken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from rankdistill.evaluate.report.grid import Grid, Line
from rankdistill.evaluate.report.table import Cell

WIDTH = 100


def grid_table(grid: Grid, caption: str = "") -> Table:
    """The grid; intervals stand below their figures where there is no room beside them."""
    texts = _texts(grid, " ")
    if _width(grid, texts) > WIDTH:
        texts = _texts(grid, "\n")
    table = Table(
        title=Text(grid.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(filter(None, (grid.about, caption))), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for place, width in enumerate(_widths(grid, texts)):
        heading = _filled(grid.columns[place].title, width)
        table.add_column(Text(heading), justify="right", no_wrap=True, min_width=width)
    for line, row in zip(grid.lines, texts, strict=True):
        table.add_row(_title(line), *row)
    return table


def _title(line: Line) -> Text:
    if line.under:
        return Text(f"  {line.title}")
    return Text(line.title, style="" if line.cells else "italic")


def _texts(grid: Grid, between: str) -> list[list[Text]]:
    return [[_cell(cell, between) for cell in line.cells] for line in grid.lines]


def _cell(cell: Cell, between: str) -> Text:
    text = Text(cell.value, style="bold" if cell.beyond_noise else "")
    return text.append(f"{between}[{cell.low}, {cell.high}]", "not bold dim") if cell.low else text


def _widths(grid: Grid, texts: Sequence[Sequence[Text]]) -> list[int]:
    """Of every column: of its longest figure, or of the longest word of its heading."""
    widths = []
    for place, column in enumerate(grid.columns):
        longest = [len(word) for word in column.title.split()]
        longest += [
            len(part) for row in texts if row for part in row[place].plain.splitlines() or [""]
        ]
        widths.append(max(longest))
    return widths


def _width(grid: Grid, texts: Sequence[Sequence[Text]]) -> int:
    titles = max(len(_title(line).plain) for line in grid.lines)
    return titles + sum(1 + width for width in _widths(grid, texts))


def _filled(title: str, width: int) -> str:
    return textwrap.fill(title, width, break_long_words=False, break_on_hyphens=False)
