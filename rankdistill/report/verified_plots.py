"""The pictures of a verified run: what each arm follows, and what more samples would give."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from rankdistill.report.plots import Plot, colour
from rankdistill.report.svg import INK, draw, legend_above
from rankdistill.report.verified_arms import Arm, arms_of, fewer_prompts

Metrics = Mapping[str, Any]


def verified_plots(metrics: Metrics) -> list[Plot]:
    """The pictures there is data for; none where nothing was verified."""
    if not metrics.get("verified"):
        return []
    arms = [arm for arm in arms_of(metrics) if _share(metrics, arm)]
    dots = [arm for arm in arms if arm.best_of is None]
    best = [arm for arm in arms if arm.best_of is not None]
    plots = [_dots_plot(metrics, dots), _best_plot(metrics, best)]
    return [plot for plot in plots if plot is not None]


def _dots_plot(metrics: Metrics, arms: list[Arm]) -> Plot | None:
    title = "Demands followed, trained kinds"
    caption = "Per cent with its interval; the line is the student before this training, sampled."
    height = 0.9 + 0.3 * len(arms)
    svg = draw("arms", title, lambda axes: _dots(axes, metrics, arms), height)
    return Plot(title, caption, svg) if svg else None


def _best_plot(metrics: Metrics, arms: list[Arm]) -> Plot | None:
    title = "Training against more samples"
    few = fewer_prompts(metrics["verified"])
    where = f" The line is of the first {few} prompts, the point of all." if few else ""
    caption = (
        "The best of n answers of the student before this training, chosen by the verifier, "
        f"against the tokens of all n; and the trained student's one answer.{where}"
    )
    svg = draw("bestof", title, lambda axes: _best_of(axes, metrics, arms))
    return Plot(title, caption, svg) if svg else None


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
    axes.set_xlabel("demands followed, %")
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
    axes.set_ylabel("demands followed, %")
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
