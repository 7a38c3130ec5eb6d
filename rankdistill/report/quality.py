"""How much of the way to the teacher's score a model has gone, with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.statistics import bootstrap, paired_difference


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
