"""Figures of a run, as a number each, and those that a comparison shows as means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.runs import FinishedRun
from rankdistill.report.ranked import LONGER
from rankdistill.report.table import count, number, percent, share_percent, size, tokens

Figure = Callable[[FinishedRun], float | None]
TRAINING = ("train", "reward")
"""The stages that an objective has for itself; all others may be shared."""
MIB = 2**20


class FigureRow(NamedTuple):
    """A row of the table: the mean over an objective's runs, without an interval."""

    key: str
    """Its column in `results.csv`."""
    title: str
    explanation: str
    text: Callable[[float | None], str]
    figure: Figure
    share: bool = False
    """A difference of it is told in points of 100."""


def role(run: FinishedRun, name: str) -> Mapping[str, Any]:
    """The figures of the model with a role; empty where there is none."""
    return run.metrics["models"].get(run.metrics[name]) or {}


def _of(key: str) -> Figure:
    """A figure of the trained student."""

    def figure(run: FinishedRun) -> float | None:
        value = role(run, "trained").get(key)
        return value["mean"] if isinstance(value, Mapping) else value

    return figure


def _ranked(name: str, key: str) -> Figure:
    """A mean of the held-out rankings, of a role or of "the longer first"."""

    def figure(run: FinishedRun) -> float | None:
        models = (run.ranked or {"models": {}})["models"]
        value = (models.get(run.metrics.get(name, name)) or {}).get(key)
        return None if value is None else value["mean"]

    return figure


def validation(key: str, last: bool = True) -> Figure:
    """The last, or the first, value that validation gave in training."""

    def figure(run: FinishedRun) -> float | None:
        history = run.metrics["training_history"]
        found = [row[f"eval_{key}"] for row in history if f"eval_{key}" in row]
        return None if not found else found[-1 if last else 0]

    return figure


def steps(run: FinishedRun) -> float | None:
    """Optimiser steps of the objective's own training, or of a warm-up that is all there is."""
    history = run.metrics["training_history"] or run.metrics["warmup_history"]
    found = [row["step"] for row in history if "step" in row]
    return max(found, default=None)


def sampled_tokens(run: FinishedRun) -> float | None:
    """Tokens that all models of the run wrote, an output that was reused counted too."""
    outputs = {stage["key"]: stage["counts"] for stage in run.metrics["stages"]}
    found = [counts["tokens"] for key, counts in outputs.items() if key.startswith("sample-")]
    return sum(found) if found else None


def peak_bytes(run: FinishedRun) -> float | None:
    """The largest memory of a training stage: the GPU's where there is one."""
    found = []
    for stage in run.metrics["stages"]:
        counts = stage["counts"]
        peak = counts.get("peak_gpu_mib", counts.get("peak_mib"))
        if peak is not None:
            found.append(peak * MIB)
    return max(found, default=None)


def training_seconds(run: FinishedRun) -> float | None:
    """What making the objective's own training took, in whichever run; None: there is none."""
    stages = [stage for stage in run.metrics["stages"] if stage["stage"] in TRAINING]
    stages = stages or [s for s in run.metrics["stages"] if s["stage"] == "warmup"]
    return sum(stage["making_seconds"] for stage in stages) if stages else None


def computed_seconds(run: FinishedRun) -> float:
    return sum(stage["seconds"] for stage in run.metrics["stages"] if not stage["reused"])


FIGURES = [
    FigureRow(
        "win_rate", "Wins over before",
        "How often an answer is scored above one of the student before training, ties half.",
        percent, _of("win_rate"),
    ),
    FigureRow(
        "quality", "Way to the teacher's score",
        "Share of the way from the judge score of the student before any training to the "
        "teacher's; only of runs whose teacher scores above that student beyond noise.",
        percent, _of("quality"),
    ),
    FigureRow(
        "pairs_before", "Held-out pairs, before",
        "Share of the pairs of held-out rankings in order, before training.",
        share_percent, _ranked("baseline", "pair_accuracy"),
    ),
    FigureRow(
        "pairs_after", "Held-out pairs, after",
        "The same after training.", share_percent, _ranked("trained", "pair_accuracy"),
    ),
    FigureRow(
        "pairs_longer", "Held-out pairs, longer first",
        "What putting the longer response first gets, which needs no model.",
        share_percent, _ranked(LONGER, "pair_accuracy"),
    ),
    FigureRow(
        "pairs_matched", "Pairs of equal length, after",
        "After training, of the pairs that are about equally long.",
        share_percent, _ranked("trained", "matched_accuracy"),
    ),
    FigureRow(
        "rank_accuracy_before", "Rank accuracy, before",
        "Validation: share of pairs that the mean log-probabilities order as ranked, before "
        "training.",
        percent, validation("rank_accuracy", last=False),
    ),
    FigureRow(
        "rank_accuracy", "Rank accuracy, after",
        "The same at the end of training.", percent, validation("rank_accuracy"),
    ),
    FigureRow(
        "kendall_tau", "Rank agreement",
        "Kendall's tau of the student's own order of held-out answers with the teacher's.",
        number, _of("kendall_tau"),
    ),
    FigureRow(
        "kl_to_baseline", "KL to before",
        "KL(trained || before), nats per token, on its own answers: how far it moved.",
        number, _of("kl_to_baseline"),
    ),
    FigureRow(
        "kl_to_teacher", "KL to teacher",
        "KL(teacher || trained), nats per token, on the teacher's answers.",
        number, _of("kl_to_teacher"),
    ),
    FigureRow(
        "entropy", "Entropy", "Nats per token: lower is surer.", number, _of("entropy"),
    ),
    FigureRow(
        "distinct_2", "Distinct-2",
        "Share of distinct bigrams among the answers to a prompt.", number, _of("distinct_2"),
    ),
    FigureRow(
        "repetition", "Repetition",
        "Share of trigrams that occurred before in the same answer.", percent, _of("repetition"),
    ),
    FigureRow(
        "response_tokens", "Length", "Mean tokens of an answer.",
        tokens, _of("response_tokens"),
    ),
    FigureRow(
        "cut_share", "Cut by length",
        "Share of answers that reached the length limit.", percent, _of("cut_share"),
    ),
    FigureRow(
        "parameters", "Parameters", "Of the trained student.", count, _of("parameters"),
    ),
    FigureRow(
        "steps", "Optimiser steps",
        "Of the objective's own training.", lambda value: f"{value:.0f}", steps,
    ),
    FigureRow(
        "sampled_tokens", "Tokens sampled",
        "By all models of a run, evaluation included; those of reused stages are counted too.",
        count, sampled_tokens,
    ),
    FigureRow(
        "peak_bytes", "Peak memory",
        "Largest of a training stage: the GPU's where there is one, else of the process with its "
        "children, weights included.", size, peak_bytes,
    ),
]  # fmt: skip


def suite_rows(objectives: list[ObjectiveRuns]) -> list[FigureRow]:
    """A row per figure of the suites that all runs measured alike; parts of figures are left out.

    The means are over runs. Intervals over a suite's items are in the runs' own reports, and beside
    what became of them in training (`rankdistill.compare.suites`).
    """
    runs = [run for objective in objectives for run in objective.runs]
    return [
        FigureRow(
            f"{suite}.{key}",
            figure["title"],
            f"{figure['meaning']} {about}.",
            share_percent if figure["share"] else number,
            lambda run, suite=suite, key=key: _figures(run, suite).get(key, {}).get("mean"),
            figure["share"],
        )
        for suite, about in measured_alike(runs)
        for key, figure in _known(runs, suite).items()
        if not figure["detail"]
    ]


def measured_alike(runs: list[FinishedRun]) -> Iterator[tuple[str, str]]:
    """Suite and how it was measured: the same version, number of shots, limit, ... in all runs."""
    first, *others = [run.metrics.get("suites") or {} for run in runs]
    for name, suite in first.items():
        how = (suite["version"], suite["about"])
        if all(
            name in other and (other[name]["version"], other[name]["about"]) == how
            for other in others
        ):
            yield name, suite["about"]


def _known(runs: list[FinishedRun], suite: str) -> dict[str, Any]:
    return {key: figure for run in runs for key, figure in _figures(run, suite).items()}


def _figures(run: FinishedRun, suite: str) -> Mapping[str, Any]:
    """Of the trained student, by key."""
    return (run.metrics["suites"][suite]["models"].get(run.metrics["trained"]) or {"figures": {}})[
        "figures"
    ]
