"""How much of the way to the teacher's score a model has gone."""

from __future__ import annotations

from typing import Any

import pytest
from report_rows import held_out_groups, model_figures, run_report

from rankdistill.report import metrics_of


def way(values: dict[str, list[float]]) -> dict[str, Any]:
    """The figure of every model whose answer to each prompt has these scores."""
    models, groups = [], {}
    for name, scores in values.items():
        groups[name] = held_out_groups(name, len(scores))
        figures = model_figures(name, groups[name])
        for key, score in zip(sorted(figures.per_prompt), scores, strict=True):
            figures.per_prompt[key].scores[:] = [score, score]
        models.append(figures)
    found = metrics_of(run_report(models=models, groups=groups))
    return {name: model["quality"] for name, model in found["models"].items()}


def test_the_way_to_the_teacher_has_an_interval():
    """Means of 0, 2 and 4: half of the way; prompts differ, so 1/2 is not certain."""
    values = {
        "start": [0.0] * 8,
        "warmed_up": [0.0, 4.0] * 4,
        "trained": [4.0] * 8,
        "teacher": [3.0, 5.0] * 4,
    }
    found = way(values)
    assert found["start"] == {"mean": 0.0, "low": None, "high": None}
    assert found["teacher"] == {"mean": 1.0, "low": None, "high": None}
    half = found["warmed_up"]
    assert half["mean"] == 0.5 and 0.0 < half["low"] < 0.35 and 0.65 < half["high"] < 1.0
    assert found["trained"]["mean"] == 1.0


@pytest.mark.parametrize("teacher", [[1.0, -1.0] * 4, [-1.0, -2.0] * 4])
def test_there_is_no_way_to_a_teacher_that_is_not_better(teacher):
    values = {"start": [0.0] * 8, "warmed_up": [0.5] * 8, "trained": [1.0] * 8, "teacher": teacher}
    assert set(way(values).values()) == {None}
