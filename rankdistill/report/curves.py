"""Training curves, from the Trainer's log history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from rankdistill.report.svg import SERIES, Plot, legend_above, plot

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot: figures of the history that share an axis."""

    title: str
    unit: str
    keys: Mapping[str, str]
    """Key in the history by the line's label."""
    caption: str = ""


def _one(key: str, title: str, unit: str, caption: str = "") -> Panel:
    return Panel(title, unit, {"train": key}, caption)


def _sides(key: str, title: str, unit: str, caption: str = "") -> Panel:
    """The best and the worst of each ranking, apart."""
    return Panel(title, unit, {side: f"{side}_{key}" for side in ("chosen", "rejected")}, caption)


_LOSS = "A dot is the mean over the steps since the last one; the line is the dots' running mean."
_TRAINING = [
    _one("score", "Training: reward", "reward", "Mean of what the policy wrote in an iteration."),
    _one("response_tokens", "Training: length", "tokens"),
    _one("explained_variance", "Training: critic", "explained variance", "1 is a perfect critic."),
    _one("pair_accuracy", "Training: pairs in order", "share of pairs"),
    _one("loss", "Training: loss", "nats", _LOSS),
    _one(
        "rank_accuracy", "Training: rank accuracy", "share of pairs",
        "Share of pairs that the policy's mean log-probabilities order as they are ranked.",
    ),
    _one(
        "margin", "Training: margin", "better minus worse",
        "Mean difference, over pairs, in what the objective ranks by.",
    ),
    _sides(
        "mean_logp", "Training: best and worst, likelihood", "nats per token",
        "A margin can grow while both fall.",
    ),
    _sides(
        "log_ratio", "Training: best and worst, against the reference", "nats per response",
        "Log-probability under the policy minus that under the student before training.",
    ),
    _sides("reward", "Training: implicit reward", "beta times log-ratio"),
    _one(
        "length_difference", "Training: length, best minus worst", "tokens",
        "Of the responses themselves: what an objective on sums sees first.",
    ),
    _one("tie_share", "Training: ties", "share of pairs"),
    _one(
        "kl", "Training: KL to the reference", "nats per token",
        "The reference is the student before training, or the teacher that it learns from.",
    ),
    _one("entropy", "Training: entropy", "nats per token"),
    _one("learning_rate", "Training: learning rate", "learning rate"),
]  # fmt: skip
_WARMUP = [
    _one("loss", "Warm-up: loss", "nats per token", _LOSS),
    _one(
        "divergence", "Warm-up: divergence from the teacher", "nats per token",
        "On what is learned, and on responses to validation prompts: where the second line leaves "
        "the first, the student memorises.",
    ),
    _one("learning_rate", "Warm-up: learning rate", "learning rate"),
]  # fmt: skip


def curve_plots(metrics: Mapping[str, Any]) -> list[Plot]:
    """Every panel with at least two points that are not all 0."""
    return [
        drawn
        for source, panels in (("warmup_history", _WARMUP), ("training_history", _TRAINING))
        for panel in panels
        for drawn in _drawn(panel, metrics[source], source)
    ]


def points(history: Sequence[Mapping[str, Any]], key: str) -> Points:
    """(step, value) of the rows that have the key; a tracker's prefix (`train/loss`) is ignored."""
    return [
        (float(row["step"]), float(value))
        for row in history
        for name, value in row.items()
        if name.rpartition("/")[2] == key and isinstance(value, int | float) and "step" in row
    ]


def _drawn(panel: Panel, history: Sequence[Mapping[str, Any]], source: str) -> list[Plot]:
    lines: dict[str, Points] = {}
    for label, key in panel.keys.items():
        line = points(history, key)
        if len(line) < 2 or not any(value for _, value in line):
            continue
        lines[label] = line
        checked = points(history, f"eval_{key}")
        if checked:
            lines["validation" if label == "train" else f"{label}, validation"] = checked
    if not lines:
        return []
    name = f"{source}-{next(iter(panel.keys.values()))}"
    noisy = "learning_rate" not in panel.keys.values()
    fill = partial(_curves, lines=lines, unit=panel.unit, noisy=noisy)
    return plot(name, panel.title, panel.caption, fill)


SMOOTHED = 12
"""Points from which a line through all of them would show noise: a line is then a running mean."""


def _curves(axes: Axes, lines: Mapping[str, Points], unit: str, noisy: bool) -> bool:
    colours = iter((SERIES[1], SERIES[2], SERIES[3], SERIES[0]))
    for label, line in lines.items():
        colour = next(colours)
        x, y = zip(*line, strict=True)
        if label.endswith("validation"):
            axes.plot(
                x, y, "--", marker="o", markersize=4, linewidth=1.5, color=colour, label=label
            )
            continue
        if noisy:
            axes.scatter(x, y, s=9, color=colour, alpha=0.5, linewidths=0)
        axes.plot(x, running_mean(y) if noisy else y, linewidth=1.6, color=colour, label=label)
    if len(lines) > 1:
        legend_above(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(unit)
    return True


def running_mean(values: Sequence[float]) -> list[float]:
    """Each with its neighbours, as many as a tenth of all; as they are where they are few."""
    reach = max(1, len(values) // 20) if len(values) >= SMOOTHED else 0
    return [
        fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))
    ]
