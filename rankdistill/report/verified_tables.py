"""The tables of a verified run: demands followed, what a gain is more than, and kinds apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.evaluate.verified import SUBSETS
from rankdistill.report.grid import (
    Column,
    Grid,
    Line,
    points_cell,
    share_cell,
    without_empty_columns,
)
from rankdistill.report.table import NOTHING, Cell, percent, share
from rankdistill.report.verified_arms import Arm, arms_of, fewer_prompts, unit

Metrics = Mapping[str, Any]


def verified_grids(metrics: Metrics) -> list[Grid]:
    """The tables there are figures for, in the order that an argument would take; none where
    nothing was verified."""
    if not metrics.get("verified"):
        return []
    grids = [demands_followed(metrics), more_than(metrics), by_kind(metrics)]
    return [without_empty_columns(grid) for grid in grids if grid.lines]


def demands_followed(metrics: Metrics) -> Grid:
    """One row per arm."""
    block = metrics["verified"]
    level = percent(metrics["statistics"]["interval_level"])
    columns = [
        Column(
            "trained kinds",
            "Mean over the kinds of demands that training prompts have, each kind counting alike, "
            f"with its {level} interval (BCa bootstrap over {unit(block)}).",
        ),
        Column("marks", "Of the trained kinds, what is added to an answer: a title, a postscript."),
        Column(
            "restrictions",
            "Of the trained kinds, what binds the whole text of an answer: its words, its commas.",
        ),
        Column("kept-out kinds", "Kinds that no training prompt has."),
        Column(
            "own minus opposite",
            "How much more often answers meet the demand than its opposite, which was not asked "
            "for; trained kinds. A habit or a length alone is worth 0.",
        ),
        Column("all at once", "Answers that follow all trained demands of their prompt."),
        Column(
            "tokens per answer",
            "Mean. Of the best of n: of all n answers, since all of them had to be written.",
        ),
    ]
    lines = [_arm_line(arm, block["arms"][arm.name], metrics) for arm in arms_of(metrics)]
    return Grid("Demands followed", _about_arms(block), columns, lines)


def more_than(metrics: Metrics) -> Grid:
    """One row per contrast of two arms."""
    block = metrics["verified"]
    titles = ("trained kinds", "marks", "restrictions", "kept-out kinds")
    lines = []
    for name, contrast in block["contrasts"].items():
        first = name == block["headline"]
        title = f"{contrast['title']} (headline)" if first else contrast["title"]
        cells = [points_cell(contrast[subset]) for subset in SUBSETS]
        lines.append(Line(title, cells, marked=first))
    about = (
        "The trained student minus another way to answer, on the same prompts, in points with "
        f"{percent(metrics['statistics']['interval_level'])} interval; bold where it excludes 0. "
        "The headline is the smaller of the sampled and the greedy gain. The same entropy as the "
        "trained student's is reached by temperature alone; the better prompt is the one that did "
        "best on validation prompts."
    )
    return Grid("What the gain is more than", about, [Column(t) for t in titles], lines)


def by_kind(metrics: Metrics) -> Grid:
    """One row per kind, below its group; of sampled answers."""
    block = metrics["verified"]
    before, after = (block["arms"].get(name) for name in ("warmed_up", "trained"))
    contrast = block["contrasts"].get("sampled")
    if before is None or after is None or contrast is None:
        return Grid("By kind", "", [], [])
    columns = [
        Column(before["label"], "Share of the demands of this kind that its answers follow."),
        Column(after["label"], "The same of the trained student."),
        Column("difference", "In points, with its interval; bold where it excludes 0."),
        Column("own minus opposite, before", "How much more often it is met than its opposite."),
        Column("own minus opposite, after", "The same of the trained student."),
        Column("its two sides", "Shares followed of each side, before and after."),
    ]
    lines: list[Line] = []
    section = ""
    for kind, difference in contrast["kinds"].items():
        own = before["kinds"][kind], after["kinds"][kind]
        if (heading := _section(own[0])) != section:
            lines.append(Line(section := heading))
        lines.append(Line(_words(kind), _kind_cells(kind, *own, difference)))
    about = "Sampled answers, in per cent. A kind has few prompts, so its interval is wide."
    return Grid("By kind", about, columns, lines)


def _arm_line(arm: Arm, figures: Metrics, metrics: Metrics) -> Line:
    tokens = f"{figures['tokens']:.0f}"
    cells = [
        share_cell(figures["trained"], bounds=True),
        *(share_cell(figures[name]) for name in SUBSETS[1:]),
        share_cell(figures["own_minus_opposite"]["trained"]),
        share_cell(figures["prompt_strict"]),
        Cell(tokens if arm.best_of is None else f"{tokens} for {arm.best_of}"),
    ]
    marked = arm.name == metrics["trained"]
    return Line(arm.title, cells, arm.under, arm.model, marked)


def _about_arms(block: Metrics) -> str:
    few = fewer_prompts(block)
    rest = f"; the best of n on the first {few} prompts alone" if few else ""
    return (
        "Share of the demands that answers to held-out prompts follow, in per cent; "
        f"{unit(block)}{rest}."
    )


def _kind_cells(
    kind: str, before: Metrics, after: Metrics, difference: Metrics | None
) -> Sequence[Cell]:
    sides = [
        f"{_words(side)} {share(value)} to {share(after['sides'].get(side))}"
        for side, value in before["sides"].items()
        if side != kind or len(before["sides"]) > 1
    ]
    return [
        share_cell(before["followed"]),
        share_cell(after["followed"]),
        points_cell(difference),
        share_cell(before["own_minus_opposite"]),
        share_cell(after["own_minus_opposite"]),
        Cell("\n".join(sides) or NOTHING),
    ]


def _section(kind: Metrics) -> str:
    name = {"marks": "Marks", "restrictions": "Restrictions"}.get(kind["group"], "Demands")
    return name if kind["trained"] else f"{name}, kept out"


def _words(name: str) -> str:
    return name.replace("_", " ")
