"""The table of verified demands: a column per objective; its cells for pages and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rankdistill.compare.figures import points, share
from rankdistill.compare.verified import VerifiedFigure, VerifiedTables
from rankdistill.report.table import NOTHING, Cell, Row, tokens

TITLE = "Demands followed"
ABOUT = (
    "Shares are of the trained student's sampled answers, each kind of demand counting alike; "
    "differences are in points of 100, on the same base prompts and of trained kinds, bold where "
    "the interval excludes 0. The 95 % intervals resample base prompts."
)
ABOUT_SEEDS = " Of several seeds: the interval is their mean's, and each seed's value follows it."


class Measure(NamedTuple):
    """A row of the table."""

    name: str
    """Of the figure; the smaller gain has none of its own."""
    title: str
    explanation: str
    text: Callable[[float | None], str]
    minus: bool = False
    """A difference, which may exclude 0."""


@dataclass(frozen=True)
class SeedsCell(Cell):
    """A figure with that of every seed, where there are several."""

    per_seed: Sequence[str] = ()


SMALLER = "smaller_gain"
_BEFORE = "Minus the student before training"
LINES = [
    Measure("trained", "Trained kinds", "Of the kinds that training prompts have.", share),
    Measure(
        "marks", "Marks", "Of these, what is added to an answer: a title, a postscript.", share,
    ),
    Measure(
        "restrictions", "Restrictions",
        "Of these, what binds the whole text: its words, its commas.", share,
    ),
    Measure("kept_out", "Kept-out kinds", "Kinds that no training prompt has.", share),
    Measure(
        "strict", "All demands of a prompt",
        "Answers that follow every demand of a trained kind.", share,
    ),
    Measure(
        "own_minus_opposite", "Own minus opposite",
        "How much more often the demand is met than its opposite, which was not asked for: a habit "
        "or a length alone is worth 0.", points, True,
    ),
    Measure("tokens", "Tokens per answer", "Mean.", tokens),
    Measure("sampled", "Gain, sampled", f"{_BEFORE}, both sampled.", points, True),
    Measure("greedy", "Gain, greedy", f"{_BEFORE}, both greedy.", points, True),
    Measure(
        SMALLER, "Smaller gain",
        "The smaller of the two: a student that is only surer gains where it is sampled alone.",
        points, True,
    ),
    Measure(
        "same_entropy", "Over the same entropy",
        f"{_BEFORE}, sampled at the temperature that gives it the same entropy.", points, True,
    ),
    Measure(
        "prompt", "Over a better prompt",
        f"{_BEFORE}, asked in the better way that was chosen on validation prompts.", points, True,
    ),
    Measure(
        "prompt_both", "Over a better prompt, both with it",
        "The same, with the trained student asked in that way as well.", points, True,
    ),
    Measure("teacher", "Over the teacher", "Minus the teacher, as it was asked.", points, True),
]  # fmt: skip


def figure_of(verified: VerifiedTables, label: str, name: str) -> VerifiedFigure | None:
    """A figure of an objective; None: it was not measured."""
    return verified.gain(label)[1] if name == SMALLER else verified.figures[label].get(name)


def verified_rows(verified: VerifiedTables) -> list[Row]:
    """The rows that there are figures for; a column per label of `figures`."""
    rows = []
    for line in LINES:
        cells = [_cell(verified, label, line) for label in verified.figures]
        if any(cell.value != NOTHING for cell in cells):
            rows.append(Row(line.name, line.title, line.explanation, cells))
    return rows


def about(verified: VerifiedTables) -> str:
    """What stands above the table."""
    more = ABOUT_SEEDS if any(len(seeds) > 1 for seeds in verified.seeds.values()) else ""
    return f"{ABOUT.removesuffix('.')} ({verified.base_prompts}).{more}"


def columns() -> list[str]:
    """Of `results.csv`: shares of 1, also where they are differences."""
    parts = ("", "_low", "_high", "_per_seed")
    names = [f"verified.{line.name}{part}" for line in LINES for part in parts]
    return [*names, "verified.beyond_noise_over"]


def values(verified: VerifiedTables, label: str) -> dict[str, float | str | None]:
    """Of these columns."""
    found: dict[str, float | str | None] = {}
    for line in LINES:
        if (figure := figure_of(verified, label, line.name)) is None:
            continue
        name, interval = f"verified.{line.name}", figure.interval
        found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        found[f"{name}_per_seed"] = ";".join(str(v) for _, v in sorted(figure.per_seed.items()))
    better = [
        d.worse for d in verified.differences if d.better == label and d.tested.beyond_noise
    ]  # fmt: skip
    return found | {"verified.beyond_noise_over": ";".join(better)}


def _cell(verified: VerifiedTables, label: str, line: Measure) -> Cell:
    figure = figure_of(verified, label, line.name)
    if figure is None:
        return Cell(NOTHING)
    interval, seeds = figure.interval, verified.seeds[label]
    value = line.text(interval.mean)
    per_seed = [_bare(line, figure.per_seed.get(seed)) for seed in seeds if len(seeds) > 1]
    if interval.low is None or interval.high is None:
        return SeedsCell(value, per_seed=per_seed)
    low, high = _bare(line, interval.low), _bare(line, interval.high)
    return SeedsCell(value, low, high, line.minus and interval.excludes(), per_seed)


def _bare(line: Measure, value: float | None) -> str:
    """Without the unit, which stands with the mean."""
    return line.text(value).removesuffix(" %")
