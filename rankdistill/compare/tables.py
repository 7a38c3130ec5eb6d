"""The tables beside that of figures: differences, wins, configurations; shared by both pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.figures import points
from rankdistill.compare.groups import config_rows
from rankdistill.compare.pairs import Difference
from rankdistill.compare.rows import estimate_cell, tested_cell
from rankdistill.compare.statistics import Estimate
from rankdistill.compare.wording import p_text, verdict
from rankdistill.report.table import NOTHING, Cell, Row, percent, signed

DIFFERENCES = (
    "The first objective minus the second, on the same prompts and seeds, with the 95 % interval "
    "of that difference alone. The p-value is corrected for how many differences there are (Holm): "
    "below 0.05 is beyond noise."
)
VERIFIED_DIFFERENCES = (
    "Trained kinds followed by the first objective minus those by the second, in points, on the "
    "same base prompts and seeds, with the 95 % interval of that difference alone; from two seeds "
    "on it takes in how much seeds differ. The p-value is corrected for how many differences there "
    "are (Holm): below 0.05 is beyond noise."
)
WINS = (
    "How often a response of the row's objective is scored above one of the column's to the same "
    "prompt, ties half, with its 95 % interval, not corrected: the differences above decide."
)


def difference_rows(comparison: Comparison) -> list[tuple[str, Cell, str, str]]:
    """Pair, difference, corrected p-value, verdict; the surest first."""
    text = points if comparison.in_points else signed
    return rows_of(comparison.told_differences, text)


def rows_of(
    differences: Sequence[Difference], text: Callable[[float | None], str]
) -> list[tuple[str, Cell, str, str]]:
    """The same of any differences; `text` tells one."""
    ordered = sorted(differences, key=lambda d: (d.tested.adjusted, d.better))
    return [
        (
            f"{d.better} minus {d.worse}",
            tested_cell(text, d.tested),
            p_text(d.tested.adjusted),
            verdict(d.tested),
        )
        for d in ordered
    ]


def about_differences(comparison: Comparison) -> str:
    """What stands above them."""
    return VERIFIED_DIFFERENCES if comparison.verified else DIFFERENCES


def win_rows(comparison: Comparison) -> list[Row]:
    """The matrix, the best objective first; none where nothing was sampled."""
    of = [objective.label for objective in comparison.ordered]
    if not comparison.sampled or len(of) < 2:
        return []
    return [Row(row, row, "", [_won(comparison, row, column) for column in of]) for row in of]


def config_table(comparison: Comparison) -> list[list[str]]:
    """Key, then the value of every objective, for the keys that differ."""
    return config_rows(comparison.ordered)


def _won(comparison: Comparison, row: str, column: str) -> Cell:
    difference = comparison.difference(row, column)
    if difference is None or difference.wins is None:
        return Cell(NOTHING)
    wins = difference.wins
    return estimate_cell(percent, wins if difference.better == row else _lost(wins))


def _lost(wins: Estimate) -> Estimate:
    """The same seen from the other side."""
    low = None if wins.high is None else 1.0 - wins.high
    high = None if wins.low is None else 1.0 - wins.low
    return Estimate(1.0 - wins.mean, low, high, wins.p_value, wins.seeds)
