"""The report of a reward model: its gate, and whether a policy outgrew it."""

from __future__ import annotations

from typing import Any

import pytest
from report_rows import MODELS, history, run_report

from rankdistill.report import metrics_of, terminal_tables
from rankdistill.report.headline import findings, headline
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.train.reward.gate import gate_figures

UP = {"mean": 0.8, "low": 0.5, "high": 1.1}
DOWN = {"mean": -0.8, "low": -1.1, "high": -0.5}
UNSURE = {"mean": 0.1, "low": -0.2, "high": 0.4}


def gate(right: bool = True) -> dict[str, Any]:
    """Ten prompts with three responses; the longer ones are worse."""
    rewards = [[2.0, 1.0, 0.0] if right else [0.0, 1.0, 2.0]] * 10
    return gate_figures(rewards, [[0, 1, 2]] * 10, [[5, 6, 20]] * 10, seed=0).row()


def metrics(difference: Any = UP, teacher: Any = UP, right: bool = True, **more: Any) -> dict:
    answers = {
        name: {"reward": UNSURE, "difference": difference if name != "warmed_up" else None}
        for name in MODELS
    }
    reward = {"gate": gate(right), "min_accuracy": 0.55, "models": answers}
    found = metrics_of(run_report(reward_model=reward, **more))
    found["models"]["trained"]["score_difference"] = teacher
    return found


def said(found: dict) -> str:
    return " ".join(finding.text for finding in findings(found))


@pytest.mark.parametrize(
    ("difference", "teacher", "sentence"),
    [
        (UP, UP, "The reward rose by +0.800, and the teacher's score with it."),
        (UP, UNSURE, "that the teacher's score rose with it is not shown"),
        (UP, DOWN, "Over-optimised: the reward rose by +0.800 while the teacher's score fell by"),
    ],
)
def test_over_optimisation_is_said(difference, teacher, sentence):
    assert sentence in said(metrics(difference, teacher))


def test_a_reward_that_did_not_rise_claims_nothing():
    for difference in (UNSURE, DOWN, None):
        assert "reward rose" not in said(metrics(difference))


def test_a_model_that_knows_length_only_is_said():
    assert "longer responses win" not in said(metrics())
    assert "not shown to know more than that longer responses win" in said(metrics(right=False))


@pytest.mark.drawn
def test_pages_show_reward_teacher_kl_and_length_together():
    found = metrics(training_history=[
        {**row, "score": row["loss"], "explained_variance": 0.5} for row in history(8, 1.0, 2.0)
        if "loss" in row
    ])  # fmt: skip
    base = found["models"]["warmed_up"]["label"]
    for page in (markdown_report(found, "seed: 0"), html_report(found, "seed: 0")):
        for words in (
            "The reward model on 30 held-out pairs", "longer wins", "Reward and teacher",
            f"Reward minus {base}", f"Judge score minus {base}", f"KL to {base}", "Length",
        ):  # fmt: skip
            assert words in page, words
    assert "Training: reward" in html_report(found, "seed: 0")
    assert len(terminal_tables(found)) == 2


def test_a_run_that_ends_with_its_reward_model():
    reward = {"gate": gate(), "min_accuracy": 0.0, "models": {}}
    found = metrics_of(run_report(names=(), reward_model=reward, ranked_set=None))
    assert headline(found) == (
        "The reward model orders 100 % (100 % to 100 %) of 30 held-out pairs as the ranking does; "
        "'longer wins' orders 0 % (0 % to 0 %)."
    )
    assert "Reward and teacher" not in markdown_report(found, "seed: 0")
    assert headline(found) in markdown_report(found, "seed: 0").replace("\\", "")
    html_report(found, "seed: 0")
