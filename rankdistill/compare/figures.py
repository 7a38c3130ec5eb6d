"""The rows of the table: one column an objective, means over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from rankdistill.compare.comparison import Comparison, Tested, mean_of
from rankdistill.compare.groups import Objective
from rankdistill.compare.runs import FinishedRun
from rankdistill.compare.statistics import Estimate
from rankdistill.evaluate.report.ranked import LONGER
from rankdistill.evaluate.report.stages import duration
from rankdistill.evaluate.report.table import (
    NOTHING,
    Cell,
    Row,
    count,
    number,
    percent,
    signed,
    size,
    tokens,
)

Figure = Callable[[FinishedRun], float | None]
TRAINING = ("train", "reward")
"""The stages that an objective has for itself; all others may be shared."""
MIB = 2**20


def table_rows(comparison: Comparison) -> list[Row]:
    """The rows that there are figures for: better? at what price?"""
    rows = [*_tested_rows(comparison)]
    for key, title, explanation, text, figure in FIGURES:
        values = [mean_of(objective, figure) for objective in comparison.ordered]
        if any(value is not None for value in values):
            cells = [Cell(NOTHING if value is None else text(value)) for value in values]
            rows.append(Row(key, title, explanation, cells))
    return [*rows, *_cost_rows(comparison)]


def _tested_rows(comparison: Comparison) -> list[Row]:
    text, minus = (number, signed) if comparison.sampled else (share, points)
    of = [objective.label for objective in comparison.ordered]
    seeds = [Cell(", ".join(str(run.seed) for run in o.runs)) for o in comparison.ordered]
    resampled = (
        "resampled prompts" if comparison.seeds == 1 else "resampled prompts, and the seeds' spread"
    )
    measure = comparison.measure
    rows = [
        Row("seeds", "Seeds", "Of the runs that the figures are means of.", seeds),
        Row(
            "score", measure.capitalize(),
            f"Mean over seeds and prompts, with its 95 % interval from {resampled}.",
            [estimate_cell(text, comparison.scores[label]) for label in of],
        ),
        Row(
            "lead", "Lead",
            f"{measure.capitalize()} minus that of the student before this training, on the same "
            "prompts; bold where it is beyond noise, all leads taken together (Holm).",
            [tested_cell(minus, comparison.leads.get(label)) for label in of],
        ),
    ]  # fmt: skip
    if comparison.over_control:
        explanation = (
            "Minus the student before training, merely sampled at the temperature that gives it "
            "the same entropy: what a likelihood gains by being surer is taken off. Bold as above."
        )
        cells = [tested_cell(minus, comparison.over_control.get(label)) for label in of]
        rows.append(Row("over_control", "More than sharpening", explanation, cells))
    return rows


def estimate_cell(text: Callable[[float | None], str], estimate: Estimate) -> Cell:
    if estimate.low is None or estimate.high is None:
        return Cell(text(estimate.mean))
    return Cell(text(estimate.mean), text(estimate.low), text(estimate.high))


def tested_cell(text: Callable[[float | None], str], tested: Tested | None) -> Cell:
    if tested is None:
        return Cell(NOTHING)
    cell = estimate_cell(text, tested.estimate)
    return Cell(cell.value, cell.low, cell.high, tested.beyond_noise)


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares, in points of 100."""
    if value is None:
        return NOTHING
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0.0 else text


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
    """Seconds of the objective's own training; None where any of it was reused, or there is none.

    A reused stage took no time in this run, and what it took in another is not this run's.
    """
    stages = [stage for stage in run.metrics["stages"] if stage["stage"] in TRAINING]
    stages = stages or [s for s in run.metrics["stages"] if s["stage"] == "warmup"]
    if not stages or any(stage["reused"] for stage in stages):
        return None
    return sum(stage["seconds"] for stage in stages)


def computed_seconds(run: FinishedRun) -> float:
    return sum(stage["seconds"] for stage in run.metrics["stages"] if not stage["reused"])


def _cost_rows(comparison: Comparison) -> list[Row]:
    of = comparison.ordered
    return [
        Row(
            "training_seconds", "Time of training",
            "Of the stages an objective has for itself: train and reward, or the warm-up where "
            "that is all. On the same machine, at the same load, these compare.",
            [_training_cell(objective) for objective in of],
        ),
        Row(
            "computed_seconds", "Time of a run",
            "Of the stages that it computed itself. Whichever run is first computes what others "
            "reuse, so these do not compare objectives.",
            [Cell(duration(fmean(map(computed_seconds, o.runs)))) for o in of],
        ),
        Row(
            "reused_stages", "Stages reused",
            "Of all stages of its runs: taken from the store, at no time.",
            [_reused_cell(objective) for objective in of],
        ),
    ]  # fmt: skip


def _training_cell(objective: Objective) -> Cell:
    known = [s for run in objective.runs if (s := training_seconds(run)) is not None]
    reused = len(objective.runs) - len(known)
    if not known:
        return Cell("reused")
    more = f" ({reused} of {len(objective.runs)} reused)" if reused else ""
    return Cell(duration(fmean(known)) + more)


def _reused_cell(objective: Objective) -> Cell:
    stages = [stage for run in objective.runs for stage in run.metrics["stages"]]
    return Cell(f"{sum(stage['reused'] for stage in stages)} of {len(stages)}")


FIGURES: list[tuple[str, str, str, Callable[[float | None], str], Figure]] = [
    ("win_rate", "Wins over before",
     "How often an answer is scored above one of the student before training, ties half.",
     percent, _of("win_rate")),
    ("quality", "Teacher's quality",
     "Share of the way from the student before any training to the teacher.",
     percent, _of("quality")),
    ("pairs_before", "Held-out pairs, before",
     "Share of the pairs of held-out rankings in order, before training.",
     share, _ranked("baseline", "pair_accuracy")),
    ("pairs_after", "Held-out pairs, after",
     "The same after training.", share, _ranked("trained", "pair_accuracy")),
    ("pairs_longer", "Held-out pairs, longer first",
     "What putting the longer response first gets, which needs no model.",
     share, _ranked(LONGER, "pair_accuracy")),
    ("pairs_matched", "Pairs of equal length, after",
     "After training, of the pairs that are about equally long.",
     share, _ranked("trained", "matched_accuracy")),
    ("rank_accuracy_before", "Rank accuracy, before",
     "Validation: share of pairs that the mean log-probabilities order as ranked, before training.",
     percent, validation("rank_accuracy", last=False)),
    ("rank_accuracy", "Rank accuracy, after",
     "The same at the end of training.", percent, validation("rank_accuracy")),
    ("kendall_tau", "Rank agreement",
     "Kendall's tau of the student's own order of held-out answers with the teacher's.",
     number, _of("kendall_tau")),
    ("kl_to_baseline", "KL to before",
     "KL(trained || before), nats a token, on its own answers: how far it moved.",
     number, _of("kl_to_baseline")),
    ("kl_to_teacher", "KL to teacher",
     "KL(teacher || trained), nats a token, on the teacher's answers.",
     number, _of("kl_to_teacher")),
    ("entropy", "Entropy", "Nats a token: lower is surer.", number, _of("entropy")),
    ("distinct_2", "Distinct-2",
     "Share of distinct bigrams among the answers to a prompt.", number, _of("distinct_2")),
    ("repetition", "Repetition",
     "Share of trigrams that occurred before in the same answer.", percent, _of("repetition")),
    ("response_tokens", "Length", "Mean tokens of an answer.", tokens, _of("response_tokens")),
    ("cut_share", "Cut by length",
     "Share of answers that reached the length limit.", percent, _of("cut_share")),
    ("parameters", "Parameters", "Of the trained student.", count, _of("parameters")),
    ("steps", "Optimiser steps",
     "Of the objective's own training.", lambda value: f"{value:.0f}", steps),
    ("sampled_tokens", "Tokens sampled",
     "By all models of a run, evaluation included; those of reused stages are counted too.",
     count, sampled_tokens),
    ("peak_bytes", "Peak memory",
     "Largest of a training stage: the GPU's where there is one, else of the process with its "
     "children, weights included.", size, peak_bytes),
]  # fmt: skip
