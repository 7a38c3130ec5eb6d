"""The content of `metrics.json`: every figure of a run, from which every report is made.

Keys are stable and snake_case; a figure that does not exist is null, never NaN. Per-prompt scores
are there by prompt id, so that two runs can be compared pairwise later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.errors import UserError
from rankdistill.evaluate.model_figures import ModelFigures, common_prompts
from rankdistill.evaluate.verified_figures import verified_metrics
from rankdistill.report.answers import choose_samples, plain
from rankdistill.report.ranked import ranked_metrics
from rankdistill.report.run_report import RunReport, StageRecord
from rankdistill.report.suites import figures_by_set
from rankdistill.statistics import (
    LEVEL,
    RESAMPLES,
    Agreement,
    bootstrap,
    mean_agreement,
    mean_interval,
    paired_difference,
    win_rate,
)
from rankdistill.store.written import METRICS, is_metrics

FORMAT = 2
FILE = METRICS
FEW_PAIRS = 100
"""Of fewer pairs each is more than a point of agreement, and none is told."""


def metrics_of(report: RunReport) -> dict[str, Any]:
    """All figures as plain JSON values; deterministic for a report's seed.

    ValueError: the baseline or the trained model is not among the models, where there are any.
    """
    models = {model.name: model for model in report.models}
    for name in (report.baseline, report.trained):
        if models and name not in models:
            raise ValueError(f"'{name}' is not among the models {sorted(models)}")
    roles = {role: getattr(report, role) for role in ("start", "control", "teacher")}
    measured = report.measured
    roles = {role: name if name in measured else None for role, name in roles.items()}
    control = roles["control"]
    content = {
        "format": FORMAT,
        "title": report.title,
        "recipe": report.recipe,
        "command": report.command,
        "overrides": list(report.overrides),
        "date": report.date,
        "judge": {"name": report.judge, "is_training_teacher": report.judged_by_training_teacher},
        "ranked_by": report.ranked_by,
        "baseline": report.baseline,
        "trained": report.trained,
        **roles,
        "statistics": {
            "interval_level": LEVEL,
            "resamples": RESAMPLES,
            "unit": "prompt",
            "seed": report.seed,
            "tie_margin": report.tie_margin,
        },
        "models": {
            m.name: _model(m, models[report.baseline], report)
            | {
                "quality": way_to_teacher(
                    m, models.get(report.start or ""), models.get(report.teacher or ""), report.seed
                )
            }
            for m in report.models
        },
        "trained_against_control": (
            _against(models[report.trained], models[control], report) if control else None
        ),
        "ranked_set": ranked_metrics(report.ranked_set, report.baseline, report.seed),
        "verified": verified_metrics(report.verified, report.seed) if report.verified else None,
        "sets": figures_by_set(report),
        "suites": report.suites,
        "ranking": report.ranking,
        "reward_model": report.reward_model,
        "samples": choose_samples(report) if models else [],
        "stages": [_stage(stage, report) for stage in report.stages],
        "learning_rates": report.learning_rates,
        "optimiser_steps": _steps(report.training_history),
        "training_history": list(report.training_history),
        "warmup_history": list(report.warmup_history),
        "versions": dict(report.versions),
    }
    return plain(content)


def metrics_bytes(metrics: Mapping[str, Any]) -> bytes:
    """The content of `metrics.json`. ValueError: a value that JSON does not have."""
    return (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode()


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `metrics.json`. UserError: missing or of another format."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"there is no {FILE} in {folder}; give the folder of a finished run.")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); run the recipe again to write it."
        ) from None
    if not is_metrics(metrics) or metrics["format"] != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}; run the recipe again to write it.")
    return metrics


THOUGHTS = ("thought_tokens", "answer_tokens", "thought_only")
"""Figures of models that think before they answer; others lack them."""


def _model(model: ModelFigures, baseline: ModelFigures, report: RunReport) -> dict[str, Any]:
    means = {key: scored.mean for key, scored in sorted(model.per_prompt.items())}
    against = _against(model, baseline, report) if model.name != baseline.name else None
    score = mean_interval(list(means.values()), seed=report.seed) if means else None
    return {
        "label": model.label,
        "temperature": model.temperature,
        "prompts": len(means),
        "responses": sum(len(scored.scores) for scored in model.per_prompt.values()),
        "unscored_responses": model.unscored,
        "score": asdict(score) if score else None,
        "score_difference": against["difference"] if against else None,
        "win_rate": against["win_rate"] if against else None,
        "compared_prompts": against["prompts"] if against else None,
        "kendall_tau": asdict(_agreement(model, report.seed)),
        "kl_to_baseline": model.kl_to_baseline,
        "kl_to_teacher": model.kl_to_teacher,
        "entropy": model.entropy,
        "distinct_2": model.distinct_2,
        "repetition": model.repetition,
        "response_tokens": model.response_tokens,
        **{name: getattr(model, name) for name in THOUGHTS if getattr(model, name) is not None},
        "cut_share": model.cut_share,
        "parameters": model.parameters,
        "tokens_per_second": model.tokens_per_second,
        "disk_bytes": model.disk_bytes,
        "prompt_scores": means,
        "response_scores": {k: v.scores for k, v in sorted(model.per_prompt.items())},
        "response_lengths": {k: v.tokens for k, v in sorted(model.per_prompt.items())},
    }


def _against(a: ModelFigures, b: ModelFigures, report: RunReport) -> dict[str, Any] | None:
    """`a` against `b` on the prompts of both; None where they share none."""
    prompts = common_prompts(a, b)
    if not prompts:
        return None
    of_a, of_b = ([m.per_prompt[prompt] for prompt in prompts] for m in (a, b))
    difference = paired_difference([x.mean for x in of_a], [x.mean for x in of_b], seed=report.seed)
    wins = win_rate(
        [x.scores for x in of_a], [x.scores for x in of_b], report.tie_margin, seed=report.seed
    )
    return {"prompts": len(prompts), "difference": asdict(difference), "win_rate": asdict(wins)}


def _steps(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Optimiser steps of the student's training, over all rounds; None where there was none."""
    steps = [int(row["step"]) for row in history if "step" in row]
    return max(steps, default=None)


def _stage(stage: StageRecord, report: RunReport) -> dict[str, Any]:
    """`versions` has those that the run itself would not have made it with."""
    others = {n: v for n, v in stage.versions.items() if report.versions.get(n) != v}
    return asdict(stage) | {"versions": others}


def _agreement(model: ModelFigures, seed: int) -> Agreement:
    if model.ordered_pairs < FEW_PAIRS:
        return Agreement(None, None, None, 0, len(model.kendall_tau))
    return mean_agreement(model.kendall_tau, seed=seed)


def way_to_teacher(
    model: ModelFigures, start: ModelFigures | None, teacher: ModelFigures | None, seed: int
) -> dict[str, Any] | None:
    """Where a model's mean score lies between the untrained student's (0) and the teacher's (1).

    Scores have no zero of their own, but differences between them do. The two ends have no
    interval, since they are what is measured with. None where there is no such student, or the
    teacher is not better than it beyond noise: then the way has no length that is known.

    Args:
        model: Whose way it is.
        start: The student before any training.
        teacher: What the way leads to.
        seed: Of the bootstrap over the prompts that all three answered.
    """
    if start is None or teacher is None:
        return None
    prompts = sorted(model.per_prompt.keys() & start.per_prompt.keys() & teacher.per_prompt.keys())
    if not prompts:
        return None
    own, low, high = (
        [of.per_prompt[prompt].mean for prompt in prompts] for of in (model, start, teacher)
    )
    length = paired_difference(high, low, seed=seed)
    if length.low is None or length.low <= 0.0:
        return None
    mean = float(_ratio(np.array(own), np.array(low), np.array(high)))
    if model.name in (start.name, teacher.name):
        return {"mean": mean, "low": None, "high": None}
    bounds = bootstrap([own, low, high], _ratio, seed)
    return {"mean": mean, "low": bounds[0], "high": bounds[1]}


def _ratio(own: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int = -1) -> np.ndarray:
    """The ratio of the means' differences: a mean of ratios would blow up where a prompt's two
    ends are equally good."""
    before, after = low.mean(axis), high.mean(axis)
    return (own.mean(axis) - before) / (after - before)
