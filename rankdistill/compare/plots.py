"""The plots of a comparison: a colour per objective, a point or a line per run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rankdistill.compare.comparison import Comparison, mean_of
from rankdistill.compare.figures import role
from rankdistill.compare.groups import differing_keys
from rankdistill.compare.runs import FinishedRun
from rankdistill.compare.verified import title_of
from rankdistill.report.curves import Points, points, running_mean
from rankdistill.report.plots import Plot
from rankdistill.report.svg import INK, MUTED, SERIES, plot

_ORDER = (1, 2, 4, 3, 5, 6, 7, 0)
"""Of the page's colours: those that differ most first."""
_MARKS = "osDv^Pp*"
"""With the colour, so that paper without colours tells objectives apart."""


@dataclass(frozen=True)
class Look:
    """How an objective is drawn."""

    colour: str
    mark: str
    dash: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """By label, in the order of the means; colours come again after eight, as dashes."""
    return {
        objective.label: Look(
            SERIES[_ORDER[place % len(_ORDER)]],
            _MARKS[place % len(_MARKS)],
            ("-", "--", ":")[place // len(_ORDER) % 3],
        )
        for place, objective in enumerate(comparison.ordered)
    }


@dataclass(frozen=True)
class Curve:
    """A figure of the training that is the same thing for every objective."""

    title: str
    unit: str
    history: str
    keys: tuple[str, ...]
    """The first that a run has is drawn."""
    caption: str = ""
    noisy: bool = False
    """Of single batches: a line through all of them would show noise."""


_HELD_OUT = "On validation prompts; a line is a run."
CURVES = [
    Curve(
        "Rank accuracy", "share of pairs", "training_history", ("eval_rank_accuracy",),
        f"Share of pairs that the mean log-probabilities order as ranked. {_HELD_OUT}",
    ),
    Curve(
        "Likelihood of the best", "nats per token", "training_history", ("eval_chosen_mean_logp",),
        f"Mean log-probability of each ranking's best response. {_HELD_OUT}",
    ),
    Curve(
        "Likelihood of the worst", "nats per token", "training_history",
        ("eval_rejected_mean_logp",),
        f"A margin can grow while best and worst both fall. {_HELD_OUT}",
    ),
    Curve(
        "Rank accuracy while training", "share of pairs", "training_history", ("rank_accuracy",),
        "On the batches as they come, as a running mean.", noisy=True,
    ),
    Curve("KL to the reference", "nats per token", "training_history", ("kl",), noisy=True),
    Curve(
        "Length while training", "tokens", "training_history", ("response_tokens",), noisy=True
    ),
    Curve("Learning rate", "learning rate", "training_history", ("learning_rate",)),
    Curve(
        "Warm-up: divergence from the teacher", "nats per token", "warmup_history",
        ("eval_divergence",), _HELD_OUT,
    ),
]  # fmt: skip


def plots_of(comparison: Comparison) -> list[Plot]:
    """The plots there is data for, in reading order."""
    verified = comparison.verified is not None
    score = title_of(comparison.verified) if comparison.verified else "Score"
    over = "over the student before training"
    over += "; the smaller of the sampled and the greedy one" if verified else ""
    sampled = [
        (
            "Gain",
            f"Mean and 95 % interval of every objective, {over}.",
            lambda axes: _leads(axes, comparison),
        ),
        (
            f"{score} against KL: the frontier",
            "Up is better, left is nearer to the student before training. A small mark is a run, "
            "a large one an objective's mean with the interval of its gain. Crosses: the student "
            "before training, at no KL, and joined to it the same as merely sampled more sharply, "
            "a gain in likelihood without learning.",
            lambda axes: _against(
                axes, comparison, "kl_to_baseline", "KL to before, nats per token"
            ),
        ),
        (
            f"{score} against length",
            "Mean tokens of a response; a score that only follows the length shows as a slope.",
            lambda axes: _against(axes, comparison, "response_tokens", "tokens of a response"),
        ),
        (
            f"{score} against entropy",
            "Lower entropy alone raises a likelihood: compare at the same entropy.",
            lambda axes: _against(axes, comparison, "entropy", "entropy, nats per token"),
        ),
    ]  # fmt: skip
    plots: list[Plot] = []
    for index, told in enumerate(sampled if comparison.sampled else sampled[:1]):
        plots += plot(f"compared{index}", *told)
    curves = [c for c in CURVES if c.history == "training_history" or not _same_warmup(comparison)]
    for index, curve in enumerate(curves):
        plots += plot(f"curve{index}", curve.title, curve.caption, _curve(curve, comparison))
    return plots


def _leads(axes: Axes, comparison: Comparison) -> bool:
    """One row per objective, the best on top."""
    drawn = looks(comparison)
    unit = 100.0 if comparison.in_points else 1.0
    for place, label in enumerate(drawn):
        estimate, look = comparison.lead(label), drawn[label]
        if estimate.low is not None and estimate.high is not None:
            ends = [unit * estimate.low, unit * estimate.high]
            axes.plot(ends, [place] * 2, color=look.colour, linewidth=1.8)
        mean = unit * estimate.mean
        axes.scatter([mean], [place], s=44, color=look.colour, marker=look.mark, zorder=3)
    axes.axvline(0.0, color=MUTED, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_yticks(range(len(drawn)), [_short(label) for label in drawn])
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("gain, points" if comparison.in_points else "gain of the judge score")
    axes.grid(axis="y", visible=False)
    return True


def _against(axes: Axes, comparison: Comparison, key: str, unit: str) -> bool:
    _before(axes, comparison, key)
    found = False
    for objective in comparison.ordered:
        look, lead = looks(comparison)[objective.label], comparison.lead(objective.label)
        mean = comparison.mean(objective.label)
        for run in objective.runs if len(objective.runs) > 1 else []:
            x, y = _point(comparison, objective.label, run, "trained", key)
            if x is not None and y is not None:
                axes.scatter(x, y, s=14, color=look.colour, marker=look.mark, alpha=0.6, lw=0)
        x = mean_of(objective, lambda run: _x(run, "trained", key))
        if x is None:
            continue
        found = True
        if lead.low is not None and lead.high is not None:
            ends = [mean + end - lead.mean for end in (lead.low, lead.high)]
            axes.plot([x, x], ends, color=look.colour, linewidth=1.2)
        axes.scatter([x], [mean], s=52, color=look.colour, marker=look.mark, zorder=3)
    axes.set_xlabel(unit)
    axes.set_ylabel(comparison.measure)
    axes.margins(x=0.12, y=0.12)
    return found


def _before(axes: Axes, comparison: Comparison, key: str) -> None:
    """The student before training, and the same sampled at the entropies of the trained ones.

    Left out where the warm-up is what is compared: the student before it is far off.
    """
    for objective in comparison.ordered:
        if objective.runs[0].config.get("rounds", 1) == 0:
            return
    by_seed: dict[int, set[tuple[float, float]]] = {}
    runs = ((o.label, run) for o in comparison.objectives for run in o.runs)
    for label, run in runs:
        for name in ("baseline", "control"):
            x, y = _point(comparison, label, run, name, key)
            if x is not None and y is not None:
                by_seed.setdefault(run.seed, set()).add((x, y))
    for places in by_seed.values():
        x, y = zip(*sorted(places), strict=True)
        axes.plot(x, y, "x", color=INK, markersize=6, markeredgewidth=1.4, zorder=2)
        if key == "kl_to_baseline":
            axes.plot(x, y, ":", color=MUTED, linewidth=1.1, zorder=1)


def _point(
    comparison: Comparison, label: str, run: FinishedRun, name: str, key: str
) -> tuple[float | None, float | None]:
    """A figure of the model with a role, and what the comparison measures of it."""
    x, model = _x(run, name, key), role(run, name)
    if comparison.verified:
        arm = comparison.verified.arms[label].get(run.metrics[name] or "", {})
        return x, arm.get(run.seed)
    return x, model["score"]["mean"] if model and model["score"] else None


def _x(run: FinishedRun, name: str, key: str) -> float | None:
    """The student before is at no KL to itself."""
    return 0.0 if key == "kl_to_baseline" and name == "baseline" else role(run, name).get(key)


def _curve(curve: Curve, comparison: Comparison) -> Callable[[Axes], bool]:
    def fill(axes: Axes) -> bool:
        drawn = looks(comparison)
        found = 0
        for objective in comparison.ordered:
            look = drawn[objective.label]
            for run in objective.runs:
                line = _line(run.metrics[curve.history], curve.keys)
                if len(line) < 2:
                    continue
                found += 1
                x, y = zip(*line, strict=True)
                if curve.noisy:
                    y = running_mean(y)
                mark = look.mark if len(line) < 12 else ""
                axes.plot(
                    x, y, look.dash, color=look.colour, marker=mark, markersize=4,
                    linewidth=1.3, alpha=0.85,
                )  # fmt: skip
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(curve.unit)
        return found > 1

    return fill


def _line(history: Iterable[Mapping[str, Any]], keys: tuple[str, ...]) -> Points:
    rows = list(history)
    lines = (points(rows, key) for key in keys)
    return next((line for line in lines if any(value for _, value in line)), [])


def _same_warmup(comparison: Comparison) -> bool:
    """One warm-up has one curve, and it says nothing about objectives."""
    keys = differing_keys(run for o in comparison.objectives for run in o.runs)
    return not any(key.startswith(("warmup.", "student.", "teacher.")) for key in keys)


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"
