"""The verified tables as Markdown, for `report.md` and for whoever computes them again."""

from __future__ import annotations

from rankdistill.compare import verified_table
from rankdistill.compare.figures import points
from rankdistill.compare.tables import VERIFIED_DIFFERENCES, rows_of
from rankdistill.compare.verified import VerifiedTables
from rankdistill.compare.verified_table import SeedsCell
from rankdistill.report.markdown_parts import cell, inline, table
from rankdistill.report.table import Cell


def verified_parts(verified: VerifiedTables) -> list[str]:
    """The table of demands followed with what its rows mean, and that of differences."""
    rows = verified_table.verified_rows(verified)
    cells = [[inline(row.title), *map(_cell, row.cells)] for row in rows]
    return [
        f"## {verified_table.TITLE}",
        inline(verified_table.about(verified)),
        table(["", *map(inline, verified.figures)], cells, numbers=True),
        "\n".join(f"- **{inline(row.title)}**: {inline(row.explanation)}" for row in rows),
        *difference_parts(rows_of(verified.differences, points), VERIFIED_DIFFERENCES),
    ]


def difference_parts(rows: list[tuple[str, Cell, str, str]], about: str) -> list[str]:
    """A comparison's table of pairs; nothing without rows."""
    if not rows:
        return []
    told = [[inline(pair), cell(of), inline(p), verdict] for pair, of, p, verdict in rows]
    heads = ["", "difference", "corrected p", ""]
    return ["## Differences", inline(about), table(heads, told, numbers=True)]


def _cell(of: Cell) -> str:
    each = of.per_seed if isinstance(of, SeedsCell) else ()
    return f"{cell(of)}; seeds {', '.join(each)}" if each else cell(of)
