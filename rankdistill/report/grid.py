"""A table whose columns need explaining, shared by terminal, Markdown and HTML.

The table of figures (`rankdistill.report.table`) has a column per model and explains its
rows; here a row is a way to answer, a comparison, or a kind of demand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rankdistill.report.table import NOTHING, Cell, points, share


@dataclass(frozen=True)
class Column:
    """A heading and what stands below it."""

    title: str
    explanation: str = ""
    """Empty where the title says it, or another table did."""


@dataclass(frozen=True)
class Line:
    """A row; without cells it is a heading of those below it."""

    title: str
    cells: Sequence[Cell] = ()
    under: str = ""
    """Title of the row that this one belongs to; shown where indenting it cannot say so."""
    model: str = ""
    """Name of the model whose colour it has."""
    marked: bool = False
    """What a reader should see first."""

    @property
    def full_title(self) -> str:
        """A title that can be understood without the rows above it."""
        return f"{self.under}, {self.title}" if self.under else self.title


@dataclass(frozen=True)
class Grid:
    """A table with what it says in a sentence or two."""

    title: str
    about: str
    columns: Sequence[Column]
    lines: Sequence[Line]


def without_empty_columns(grid: Grid) -> Grid:
    """The grid with those columns alone in which a row has a figure."""
    kept = [
        place
        for place in range(len(grid.columns))
        if any(line.cells and line.cells[place].value != NOTHING for line in grid.lines)
    ]
    lines = [
        replace(line, cells=[line.cells[place] for place in kept]) if line.cells else line
        for line in grid.lines
    ]
    return replace(grid, columns=[grid.columns[place] for place in kept], lines=lines)


def share_cell(interval: Mapping[str, Any] | None, *, bounds: bool = False) -> Cell:
    """A mean share in per cent, the sign left to the heading; `bounds`: with its interval."""
    if interval is None:
        return Cell(NOTHING)
    if not bounds or interval["low"] is None:
        return Cell(share(interval["mean"]))
    return Cell(share(interval["mean"]), share(interval["low"]), share(interval["high"]))


def points_cell(interval: Mapping[str, Any] | None) -> Cell:
    """A difference in points with its interval; bold where that excludes 0."""
    if interval is None:
        return Cell(NOTHING)
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return Cell(points(interval["mean"]))
    beyond = not low <= 0.0 <= high
    return Cell(points(interval["mean"]), share(low), share(high), beyond)
