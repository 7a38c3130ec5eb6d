"""The tables and pictures of a verified run.

Demands followed, what a gain is more than and kinds apart; what each arm follows, and what more
samples would give.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from rankdistill.evaluate.verified import FORM, SUBSETS
from rankdistill.report.plots import Plot, colour
from rankdistill.report.svg import INK, legend_above, plot
from rankdistill.report.table import (
    NOTHING,
    Cell,
    Column,
    Grid,
    Line,
    interval_cell,
    percent,
    points_cell,
    share,
    share_cell,
    without_empty_columns,
)

Metrics = Mapping[str, Any]
MODELS = ("start", "warmed_up", "trained", "teacher")
"""Each with its ways to answer below it; the same-entropy control is one of the second."""


@dataclass(frozen=True)
class Arm:
    """A model with a way to have it answer."""

    name: str
    """Key in the block's `arms`."""
    model: str
    """Key in `models`, for its colour."""
    title: str
    """`greedy`, `best of 4`; the model's own heading where it is sampled as usual."""
    under: str = ""
    """The model's heading; empty where it is the title."""
    best_of: int | None = None
    """Of how many answers the best is taken."""


def arms_of(metrics: Metrics) -> list[Arm]:
    """All arms that were measured: each model, then what was done with it."""
    block = metrics["verified"]
    known = block["arms"]
    found = [arm for model in MODELS for arm in _of_model(model, block) if arm.name in known]
    taken = {arm.name for arm in found}
    return found + [Arm(name, name, known[name]["label"]) for name in known if name not in taken]


def unit(block: Metrics, count: int | None = None) -> str:
    """`150 base prompts`: what intervals resample; prompts where they were made of no others."""
    count = block["clusters"] if count is None else count
    made = any(arm["own_minus_opposite"]["trained"] for arm in block["arms"].values())
    word = "base prompt" if made else "held-out prompt"
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def measured(block: Metrics) -> tuple[str, str]:
    """What a share is of, and what the mean over it is called: only IFEval's rules are demands, of
    several kinds."""
    ifeval = block["rule"] == "ifeval"
    return ("demands followed", "trained kinds") if ifeval else ("rule met", "answers")


def fewer_prompts(block: Metrics) -> int | None:
    """How many prompts the best of n was sampled for, where that is not all of them."""
    arms = block["arms"]
    few = min((arm["prompts"] for name, arm in arms.items() if "_best_of_" in name), default=None)
    return few if few != max(arm["prompts"] for arm in arms.values()) else None


def _of_model(model: str, block: Metrics) -> Iterator[Arm]:
    known = block["arms"]
    if model not in known:
        return
    label = known[model]["label"]
    yield Arm(model, model, label)
    if model == "warmed_up" and "sharpened" in known:
        # Its label is the model's with the temperature behind it.
        temperature = known["sharpened"]["label"].rpartition(", ")[2]
        yield Arm("sharpened", "sharpened", f"same entropy, {temperature}", label)
    yield Arm(f"{model}_greedy", model, "greedy", label)
    way = (block["prompting"] or {}).get("chosen", "")
    yield Arm(f"{model}_prompted", model, f"better prompt: {way}", label)
    for arm in (f"{model}_majority", f"{model}_examples", f"{model}_best"):
        if arm in known:
            yield Arm(arm, model, known[arm]["label"].partition(", ")[2], label)
    start = f"{model}_best_of_"
    for n in sorted(int(name.removeprefix(start)) for name in known if name.startswith(start)):
        yield Arm(f"{start}{n}", model, f"best of {n}", label, n)


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
    what, whole = measured(block)
    level = percent(metrics["statistics"]["interval_level"])
    mean = (
        "Mean over the kinds of demands that training prompts have, each kind counting alike"
        if block["rule"] == "ifeval"
        else "Mean over prompts"
    )
    columns = [
        Column(whole, f"{mean}, with its {level} interval (BCa bootstrap over {unit(block)})."),
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
        Column("in the wanted form", "Answers that match `eval.verified.form`, right or wrong."),
        Column(
            "tokens per answer",
            "Mean. Of the best of n: of all n answers, since all of them had to be written.",
        ),
    ]
    lines = [_arm_line(arm, block["arms"][arm.name], metrics) for arm in arms_of(metrics)]
    return Grid(what.capitalize(), _about_arms(block), columns, lines)


def more_than(metrics: Metrics) -> Grid:
    """One row per contrast of two arms."""
    block = metrics["verified"]
    titles = (measured(block)[1], "marks", "restrictions", "kept-out kinds", "in the wanted form")
    lines = []
    for name, contrast in block["contrasts"].items():
        first = name == block["headline"]
        title = f"{contrast['title']} (headline)" if first else contrast["title"]
        cells = [points_cell(contrast.get(subset)) for subset in SUBSETS]
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
    kinds = {} if contrast is None else {k: d for k, d in contrast["kinds"].items() if k != FORM}
    if before is None or after is None or len(kinds) < 2:
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
    for kind, difference in kinds.items():
        own = before["kinds"][kind], after["kinds"][kind]
        if (heading := _section(own[0])) != section:
            lines.append(Line(section := heading))
        lines.append(Line(_words(kind), _kind_cells(kind, *own, difference)))
    about = "Sampled answers, in per cent. A kind has few prompts, so its interval is wide."
    return Grid("By kind", about, columns, lines)


def _arm_line(arm: Arm, figures: Metrics, metrics: Metrics) -> Line:
    tokens = f"{figures['tokens']:.0f}"
    cells = [
        interval_cell(share)(figures["trained"]),
        *(share_cell(figures[name]) for name in ("marks", "restrictions", "kept_out")),
        share_cell(figures["own_minus_opposite"]["trained"]),
        share_cell(figures["prompt_strict"]),
        share_cell(figures.get("form")),
        Cell(tokens if arm.best_of is None else f"{tokens} for {arm.best_of}"),
    ]
    marked = arm.name == metrics["trained"]
    return Line(arm.title, cells, arm.under, arm.model, marked)


def _about_arms(block: Metrics) -> str:
    few = fewer_prompts(block)
    rest = f"; the best of n on the first {few} prompts alone" if few else ""
    of = (
        "the demands that answers to held-out prompts follow"
        if block["rule"] == "ifeval"
        else "the answers to held-out prompts that meet the rule"
    )
    return f"Share of {of}, in per cent; {unit(block)}{rest}."


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


def verified_plots(metrics: Metrics) -> list[Plot]:
    """The pictures there is data for; none where nothing was verified."""
    if not metrics.get("verified"):
        return []
    arms = [arm for arm in arms_of(metrics) if _share(metrics, arm)]
    dots = [arm for arm in arms if arm.best_of is None]
    best = [arm for arm in arms if arm.best_of is not None]
    return [*_dots_plot(metrics, dots), *_best_plot(metrics, best)]


def _dots_plot(metrics: Metrics, arms: list[Arm]) -> list[Plot]:
    title = ", ".join(measured(metrics["verified"])).capitalize()
    caption = "Per cent with its interval; the line is the student before this training, sampled."
    height = 0.9 + 0.3 * len(arms)
    return plot("arms", title, caption, lambda axes: _dots(axes, metrics, arms), height)


def _best_plot(metrics: Metrics, arms: list[Arm]) -> list[Plot]:
    title = "Training against more samples"
    few = fewer_prompts(metrics["verified"])
    where = f" The line is of the first {few} prompts, the point of all." if few else ""
    caption = (
        "The best of n answers of the student before this training, chosen by the verifier, "
        f"against the tokens of all n; and the trained student's one answer.{where}"
    )
    return plot("bestof", title, caption, lambda axes: _best_of(axes, metrics, arms))


def _dots(axes: Axes, metrics: Metrics, arms: list[Arm]) -> bool:
    """One line per arm, the first at the top."""
    for place, arm in enumerate(arms):
        share, shade = _share(metrics, arm), colour(metrics, arm.model or metrics["trained"])
        if share["low"] is not None:
            ends = [100 * share["low"], 100 * share["high"]]
            axes.plot(ends, [place, place], color=shade, linewidth=1.8)
        # What stands in for a model's own way to answer is open.
        face = "none" if arm.under else shade
        axes.scatter([100 * share["mean"]], [place], s=36, color=face, edgecolors=shade, zorder=3)
        if arm.name == "warmed_up":
            axes.axvline(100 * share["mean"], color=shade, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_yticks(range(len(arms)), [textwrap.shorten(arm.title, 30) for arm in arms])
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        label.set_fontweight("normal" if arm.under else "bold")
    axes.invert_yaxis()
    axes.set_xlabel(f"{measured(metrics['verified'])[0]}, %")
    axes.grid(axis="y", visible=False)
    return bool(arms)


def _best_of(axes: Axes, metrics: Metrics, arms: list[Arm]) -> bool:
    """A line over n, and the trained student's point."""
    trained = metrics["verified"]["arms"].get(metrics["trained"])
    if len(arms) < 2 or trained is None or trained["trained"] is None:
        return False
    figures = [metrics["verified"]["arms"][arm.name] for arm in arms]
    tokens = [of["tokens"] for of in figures]
    shares = [100 * of["trained"]["mean"] for of in figures]
    shade = colour(metrics, arms[0].model)
    axes.plot(tokens, shares, marker="o", markersize=4, color=shade, label="best of n before it")
    for arm, x, y in zip(arms, tokens, shares, strict=True):
        axes.annotate(
            str(arm.best_of), (x, y), xytext=(0, -6), textcoords="offset points", color=INK,
            horizontalalignment="center", verticalalignment="top",
        )  # fmt: skip
    own, x = trained["trained"], trained["tokens"]
    shade = colour(metrics, metrics["trained"])
    if own["low"] is not None:
        axes.plot([x, x], [100 * own["low"], 100 * own["high"]], color=shade, linewidth=1.6)
    axes.scatter([x], [100 * own["mean"]], s=36, color=shade, zorder=3, label="trained, one answer")
    _doubling(axes, tokens)
    axes.set_xlabel("tokens per prompt")
    axes.set_ylabel(f"{measured(metrics['verified'])[0]}, %")
    legend_above(axes)
    return True


def _doubling(axes: Axes, tokens: list[float]) -> None:
    """An axis on which a doubling has the same length everywhere, with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [f"{value:.0f}" for value in tokens])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)


def _share(metrics: Metrics, arm: Arm) -> Any:
    return metrics["verified"]["arms"][arm.name]["trained"]
