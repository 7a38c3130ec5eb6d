"""The tables beside that of figures: differences, wins, configurations; shared by both pages."""

from __future__ import annotations

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.figures import points
from rankdistill.compare.groups import config_rows
from rankdistill.compare.rows import estimate_cell, tested_cell
from rankdistill.compare.sentences import p_text, verdict
from rankdistill.compare.statistics import Estimate
from rankdistill.evaluate.report.table import NOTHING, Cell, Row, percent, signed

DIFFERENCES = (
    "The first objective minus the second, on the same prompts and seeds, with the 95 % interval "
    "of that difference alone. The p-value is corrected for how many differences there are (Holm): "
    "below 0.05 is beyond noise."
)
WINS = (
    "How often an answer of the row's objective is scored above one of the column's to the same "
    "prompt, ties half, with its 95 % interval, not corrected: the differences above decide."
)


def difference_rows(comparison: Comparison) -> list[tuple[str, Cell, str, str]]:
    """Pair, difference, corrected p-value, verdict; the surest first."""
    text = signed if comparison.sampled else points
    ordered = sorted(comparison.differences, key=lambda d: (d.tested.adjusted, d.better))
    return [
        (
            f"{d.better} minus {d.worse}",
            tested_cell(text, d.tested),
            p_text(d.tested.adjusted),
            verdict(d.tested),
        )
        for d in ordered
    ]


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
