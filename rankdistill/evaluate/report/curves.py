"""Training curves, from the Trainer's log history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from rankdistill.evaluate.report.svg import SERIES, draw, legend_above

_TRAINING = {
    "loss": ("Training: loss", "nats"),
    "rank_accuracy": ("Training: rank accuracy", "share of pairs"),
    "kl": ("Training: KL to the reference", "nats a token"),
    "entropy": ("Training: entropy", "nats a token"),
    "learning_rate": ("Training: learning rate", "learning rate"),
}
_WARMUP = {
    "loss": ("Warm-up: loss", "nats a token"),
    "learning_rate": ("Warm-up: learning rate", "learning rate"),
}
_CAPTIONS = {
    "loss": "Mean over the steps since the last point.",
    "rank_accuracy": "Share of pairs that the policy's mean log-probabilities order as the "
    "teacher does.",
}

Points = list[tuple[float, float]]


def curve_plots(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Title, caption, SVG of every curve that has at least two points."""
    plots = []
    for source, curves in (("warmup_history", _WARMUP), ("training_history", _TRAINING)):
        for key, (title, unit) in curves.items():
            lines = {"train": points(metrics[source], key)}
            lines["validation"] = points(metrics[source], f"eval_{key}")
            if len(lines["train"]) < 2:
                continue
            svg = draw(f"{source}-{key}", title, lambda axes, u=unit, li=lines: _curve(axes, li, u))
            if svg is not None:
                plots.append((title, _CAPTIONS.get(key, ""), svg))
    return plots


def points(history: Sequence[Mapping[str, Any]], key: str) -> Points:
    """(step, value) of the rows that have the key; a tracker's prefix (`train/loss`) is ignored."""
    found: Points = []
    for row in history:
        for name, value in row.items():
            if name.rpartition("/")[2] == key and isinstance(value, int | float) and "step" in row:
                found.append((float(row["step"]), float(value)))
    return found


def _curve(axes: Axes, lines: Mapping[str, Points], unit: str) -> bool:
    for (label, line), colour in zip(lines.items(), (SERIES[1], SERIES[2]), strict=True):
        if line:
            mark = "o" if len(line) < 30 else ""
            x, y = zip(*line, strict=True)
            axes.plot(x, y, marker=mark, markersize=3, linewidth=1.5, color=colour, label=label)
    if lines["validation"]:
        legend_above(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(unit)
    return True
