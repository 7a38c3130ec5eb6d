"""The plots of the report, as inline SVG that takes its colours from the page.

Every plot is one panel of the same size, so that a phone shows one below the other at a readable
size. Colours are CSS variables and text is text: plots follow light and dark, print and selection.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rankdistill.report.curves import curve_plots
from rankdistill.report.ranked import LONGER
from rankdistill.report.ranking import ranking_plots
from rankdistill.report.suites import suite_heads
from rankdistill.report.svg import INK, MUTED, SERIES, Plot, legend_above, plot
from rankdistill.report.table import percent, signed

Metrics = Mapping[str, Any]


def plots_of(metrics: Metrics) -> list[Plot]:
    """The plots there is data for, in reading order."""
    if not metrics["models"]:
        return [*_ranked(metrics), *_others(metrics)]
    plots: list[Plot] = []
    trained, baseline = (
        metrics["models"][metrics[role]]["label"] for role in ("trained", "baseline")
    )
    left_out = (
        "The student before its warm-up is far off and left out." if _far_off(metrics) else ""
    )
    candidates: list[tuple[str, str, Callable[[Axes], bool]]] = [
        (
            "Judge score of every prompt",
            "A dot is a prompt (mean of its responses), the bar a model's mean with its interval. "
            f"Lines join the same prompt at {baseline} and {trained}.",
            lambda axes: _scores(axes, metrics),
        ),
        (
            "Change of every prompt",
            f"Score of {trained} minus {baseline}, prompts in order of it; the line is the mean, "
            "the band its interval. The n-th bar is prompt n of all prompts below.",
            lambda axes: _changes(axes, metrics),
        ),
        (
            "Score against entropy",
            f"What a model gains by being surer: compare models at the same entropy. {left_out}",
            lambda axes: _against(axes, metrics, "entropy", "entropy, nats per token"),
        ),
        (
            f"Score against KL to {baseline}",
            f"How far a model moved, on its own responses. {left_out}",
            lambda axes: _against(axes, metrics, "kl_to_baseline", "KL, nats per token"),
        ),
        (
            "Score against length",
            "A dot is a response. A score that only follows the length shows as a shared slope."
            f"{_cut(metrics)}",
            lambda axes: _lengths(axes, metrics),
        ),
    ]
    for index, candidate in enumerate(candidates):
        plots += plot(f"plot{index}", *candidate)
    return plots + _ranked(metrics) + _others(metrics)


def gain_plot(metrics: Metrics) -> list[Plot]:
    """Every model's gain over the student before training, with its interval, where there is one.
    It is what the headline says."""
    gains = {
        name: model
        for name, model in metrics["models"].items()
        if model["score_difference"] is not None and name not in _far_off(metrics)
    }
    baseline = (metrics["models"].get(metrics["baseline"]) or {"label": ""})["label"]
    title = f"Judge score over the {baseline} student"
    level = f"{100 * metrics['statistics']['interval_level']:.0f} %"
    caption = f"Mean with its {level} interval, on the same prompts."
    height = 0.8 + 0.42 * len(gains)
    if not gains:
        return []
    return plot("gain", title, caption, lambda axes: _gains(axes, metrics, gains), height)


def _gains(axes: Axes, metrics: Metrics, gains: Metrics) -> bool:
    for place, (name, model) in enumerate(gains.items()):
        gain, shade = model["score_difference"], colour(metrics, name)
        if gain["low"] is not None:
            axes.plot([gain["low"], gain["high"]], [place, place], color=shade, linewidth=2.4)
        axes.scatter([gain["mean"]], [place], s=44, color=shade, zorder=3)
        axes.annotate(
            signed(gain["mean"]), (gain["mean"], place), xytext=(0, 7), color=INK,
            textcoords="offset points", horizontalalignment="center",
        )  # fmt: skip
    axes.axvline(0.0, color=MUTED, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_yticks(range(len(gains)), [_short(model["label"]) for model in gains.values()])
    axes.set_ylim(len(gains) - 0.5, -0.7)
    axes.set_xlabel("gain of the judge score")
    axes.grid(axis="y", visible=False)
    return True


def _others(metrics: Metrics) -> list[Plot]:
    return [*ranking_plots(metrics), *curve_plots(metrics)]


def colour(metrics: Metrics, name: str) -> str:
    """The colour of a model: by its role, so that it is the same in every report."""
    order = ("start", "baseline", "trained", "control", "teacher")
    roles = {metrics[role]: index for index, role in enumerate(order)}
    others = [
        other for other in {**metrics["models"], **suite_heads(metrics)} if other not in roles
    ]
    index = roles[name] if name in roles else 5 + others.index(name) % (len(SERIES) - 5)
    return SERIES[index]


def _ranked(metrics: Metrics) -> list[Plot]:
    """How much of held-out rankings every model has in order."""
    if metrics.get("ranked_set") is None:
        return []
    title = "Held-out pairs in order"
    caption = (
        "Mean over prompts with its interval: all pairs (filled), and pairs of about the same "
        "length (open). Half is chance."
    )
    return plot("ranked", title, caption, lambda axes: _pair_accuracies(axes, metrics))


def _pair_accuracies(axes: Axes, metrics: Metrics) -> bool:
    models = metrics["ranked_set"]["models"]
    found = False
    for place, (name, model) in enumerate(models.items()):
        shade = MUTED if name == LONGER else colour(metrics, name)
        for key, shift, face in (
            ("pair_accuracy", -0.08, shade),
            ("matched_accuracy", 0.08, "none"),
        ):
            interval, x = model[key], place + shift
            if interval is None:
                continue
            found = True
            if interval["low"] is not None:
                axes.plot([x, x], [interval["low"], interval["high"]], color=shade, linewidth=1.6)
            axes.scatter([x], [interval["mean"]], s=34, color=face, edgecolors=shade, zorder=3)
    axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xticks(range(len(models)), [textwrap.fill(m["label"], 9) for m in models.values()])
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.set_ylabel("share of pairs in order")
    axes.grid(axis="x", visible=False)
    return found


def _scores(axes: Axes, metrics: Metrics) -> bool:
    models = {name: m for name, m in metrics["models"].items() if m["prompt_scores"]}
    places = {name: place for place, name in enumerate(models)}
    spread = np.random.default_rng(0)
    _join(axes, metrics, places)
    for name, model in models.items():
        scores = list(model["prompt_scores"].values())
        x = places[name] + spread.uniform(-0.12, 0.12, len(scores))
        axes.scatter(
            x, scores, s=13, color=colour(metrics, name), alpha=0.55, linewidths=0, zorder=2
        )
        _mean_bar(axes, places[name], model["score"])
    labels = [textwrap.fill(_short(model["label"]), 9) for model in models.values()]
    axes.set_xticks(list(places.values()), labels)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylabel("judge score")
    axes.grid(axis="x", visible=False)
    return bool(places)


def _join(axes: Axes, metrics: Metrics, places: Mapping[str, int]) -> None:
    ends = [metrics["baseline"], metrics["trained"]]
    if any(end not in places for end in ends):
        return
    before, after = (metrics["models"][end]["prompt_scores"] for end in ends)
    shared = sorted(before.keys() & after.keys())
    strength = min(0.45, 12.0 / max(1, len(shared)))
    for prompt in shared:
        x, y = [places[end] for end in ends], [before[prompt], after[prompt]]
        axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=strength, zorder=1)


def _mean_bar(axes: Axes, place: float, score: Mapping[str, Any]) -> None:
    axes.plot([place - 0.3, place + 0.3], [score["mean"]] * 2, color=INK, linewidth=1.6, zorder=4)
    if score["low"] is not None:
        axes.plot([place] * 2, [score["low"], score["high"]], color=INK, linewidth=1.6, zorder=4)


def _changes(axes: Axes, metrics: Metrics) -> bool:
    trained, baseline = (metrics["models"][metrics[role]] for role in ("trained", "baseline"))
    after, before = trained["prompt_scores"], baseline["prompt_scores"]
    changes = sorted(after[prompt] - before[prompt] for prompt in after.keys() & before.keys())
    if not changes:
        return False
    better, worse = colour(metrics, metrics["trained"]), colour(metrics, metrics["baseline"])
    colours = [better if change > 0 else worse for change in changes]
    axes.bar(range(1, len(changes) + 1), changes, width=0.8, color=colours, zorder=2)
    difference = trained["score_difference"]
    if difference["low"] is not None:
        axes.axhspan(difference["low"], difference["high"], color=INK, alpha=0.14, linewidth=0)
    axes.axhline(difference["mean"], color=INK, linewidth=1.4, zorder=3)
    axes.axhline(0.0, color=MUTED, linewidth=0.8, zorder=3)
    axes.set_xlim(0.25, len(changes) + 0.75)
    axes.set_xlabel("prompts, by change")
    axes.set_ylabel("change of judge score")
    axes.grid(axis="x", visible=False)
    return True


def _against(axes: Axes, metrics: Metrics, key: str, unit: str) -> bool:
    """One point per model; the baseline's distance from itself is 0."""
    points = []
    for name, model in metrics["models"].items():
        if name in _far_off(metrics):
            continue
        x = 0.0 if key == "kl_to_baseline" and name == metrics["baseline"] else model[key]
        if x is not None and model["score"] is not None:
            points.append((name, model, x))
    for name, model, x in points:
        score = model["score"]
        if score["low"] is not None:
            axes.plot(
                [x, x], [score["low"], score["high"]], color=colour(metrics, name), linewidth=1.6
            )
        shade, label = colour(metrics, name), _short(model["label"])
        axes.scatter([x], [score["mean"]], s=36, color=shade, zorder=3, label=label)
    if points:
        legend_above(axes)
    axes.set_xlabel(unit)
    axes.set_ylabel("judge score")
    axes.margins(x=0.1, y=0.1)
    return len(points) > 1


def _short(label: str) -> str:
    """A label that leaves room for the plot."""
    return label if len(label) <= 20 else f"{label[:19]}…"


def _far_off(metrics: Metrics) -> set[str]:
    """Models whose point would press all others into a corner: the student that is not yet warm."""
    return {metrics["start"]} - {metrics["baseline"], metrics["trained"], None}


def _cut(metrics: Metrics) -> str:
    """What stands in the right-most column, where that is much."""
    cut = metrics["models"][metrics["trained"]]["cut_share"]
    return f" {percent(cut)} of the trained student's were cut at the limit." if cut else ""


def _lengths(axes: Axes, metrics: Metrics) -> bool:
    shown = [metrics[role] for role in ("baseline", "trained", "teacher")]
    drawn = False
    for name in [name for name in shown if name in metrics["models"]]:
        model = metrics["models"][name]
        lengths = [n for row in model["response_lengths"].values() for n in row]
        scores = [s for row in model["response_scores"].values() for s in row]
        if not lengths:
            continue
        drawn = True
        shade = colour(metrics, name)
        axes.scatter(
            lengths,
            scores,
            s=13,
            alpha=0.5,
            linewidths=0,
            color=shade,
            label=_short(model["label"]),
        )
    axes.set_xlabel("tokens of the response")
    axes.set_ylabel("judge score")
    if drawn:
        legend_above(axes, markerscale=2.0)
    return drawn
