"""What the report says of a reward model: its gate, and whether a policy outgrew it.

Its score, the teacher's, the KL and the length stand side by side, so that a reward model that was
pleased without the teacher (over-optimisation) is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rankdistill.report.table import Cell, Row, interval_cell, number, percent, signed, tokens

Metrics = Mapping[str, Any]

GATE_COLUMNS = ("reward model", "longer wins")
"""The headings of the gate's columns."""


def has_reward(metrics: Metrics) -> bool:
    """Whether the run trained a reward model."""
    return bool(metrics.get("reward_model"))


def gate_title(metrics: Metrics) -> str:
    """The heading of the gate's table."""
    gate = metrics["reward_model"]["gate"]
    return f"The reward model on {gate['pairs']} held-out pairs"


def gate_rows(metrics: Metrics) -> list[Row]:
    """How the reward model orders held-out pairs, beside "the longer response is better"."""
    gate, least = metrics["reward_model"]["gate"], metrics["reward_model"]["min_accuracy"]
    share = interval_cell(percent, 0.5)
    nothing = Cell("-")
    return [
        Row(
            "accuracy",
            "Pairs in order",
            f"Share of pairs in the ranking's order, averaged over {gate['prompts']} prompts; bold "
            f"where the interval excludes chance. The gate asks for {percent(least)}.",
            [share(gate["accuracy"]), share(gate["longer_wins"])],
        ),
        Row(
            "like_length",
            "Of like length",
            f"The same for the {gate['like_length_pairs']} pairs that differ by at most a tenth of "
            "the longer one's tokens.",
            [share(gate["like_length"]), nothing],
        ),
        Row(
            "beyond_length",
            "minus longer wins",
            "Difference of the two on the same prompts; bold where its interval excludes 0.",
            [interval_cell(_points, 0.0)(gate["beyond_length"]), nothing],
        ),
        Row(
            "calibration_error",
            "Calibration error",
            "Mean distance of the stated probability of an order from how often it is right.",
            [Cell(number(gate["calibration_error"])), nothing],
        ),
    ]


def reward_rows(metrics: Metrics) -> list[Row]:
    """Reward, judge score, KL and length of every model; nothing without answers."""
    rewards = metrics["reward_model"]["models"]
    if not rewards:
        return []
    baseline = metrics["models"][metrics["baseline"]]["label"]
    models = [(rewards.get(name, {}), model) for name, model in metrics["models"].items()]

    def row(key: str, title: str, told: str, cell: Callable[[Any, Any], Cell]) -> Row:
        return Row(key, title, told, [cell(of_reward, model) for of_reward, model in models])

    change = interval_cell(signed, 0.0)
    return [
        row(
            "reward", "Reward",
            "Mean over prompts by the reward model that was trained on; the warmed-up student's "
            "training responses have mean 0 and standard deviation 1.",
            lambda reward, _: interval_cell(number)(reward.get("reward")),
        ),
        row(
            "reward_difference", f"Reward minus {baseline}",
            "On the same prompts; bold where its interval excludes 0.",
            lambda reward, _: change(reward.get("difference")),
        ),
        row(
            "score_difference", f"Judge score minus {baseline}",
            "What the teacher, which was not trained on, makes of the same responses.",
            lambda _, model: change(model["score_difference"]),
        ),
        row(
            "kl_to_baseline", f"KL to {baseline}", "Nats per token, on the model's own responses.",
            lambda _, model: Cell(number(model["kl_to_baseline"])),
        ),
        row(
            "response_tokens", "Length", "Mean tokens of a response, EOS included.",
            lambda _, model: Cell(tokens(model["response_tokens"])),
        ),
    ]  # fmt: skip


def reward_headline(metrics: Metrics) -> str:
    """One sentence on a run that ends with its reward model."""
    gate = metrics["reward_model"]["gate"]
    return (
        f"The reward model orders {_told(gate['accuracy'])} of {gate['pairs']} held-out pairs as "
        f"the ranking does; 'longer wins' orders {_told(gate['longer_wins'])}."
    )


def reward_cautions(metrics: Metrics) -> list[tuple[str, str]]:
    """(kind, sentence) of what a reader must know of the reward model."""
    if not has_reward(metrics):
        return []
    gate = metrics["reward_model"]["gate"]
    said = [("plain", reward_headline(metrics))] if metrics["models"] else []
    beyond = gate["beyond_length"]
    if beyond["low"] is not None and beyond["low"] <= 0:
        text = "The reward model is not shown to know more than that longer responses win."
        said.append(("warning", text))
    return said + _outgrown(metrics)


def _outgrown(metrics: Metrics) -> list[tuple[str, str]]:
    reward = metrics["reward_model"]["models"].get(metrics["trained"], {}).get("difference")
    if not reward or reward["low"] is None or not metrics["models"]:
        return []
    teacher = metrics["models"][metrics["trained"]]["score_difference"]
    if reward["low"] <= 0 or teacher is None or teacher["low"] is None:
        return []
    by = signed(reward["mean"])
    if teacher["high"] < 0:
        text = (
            f"Over-optimised: the reward rose by {by} while the teacher's score fell by "
            f"{number(-teacher['mean'])}."
        )
        return [("warning", text)]
    if teacher["low"] <= 0:
        text = f"The reward rose by {by}; that the teacher's score rose with it is not shown."
        return [("warning", text)]
    return [("good", f"The reward rose by {by}, and the teacher's score with it.")]


def _told(interval: Mapping[str, Any]) -> str:
    if interval["low"] is None:
        return percent(interval["mean"])
    return (
        f"{percent(interval['mean'])} ({percent(interval['low'])} to {percent(interval['high'])})"
    )


def _points(value: float | None) -> str:
    """A difference of shares, in points of a hundred."""
    return signed(None if value is None else 100 * value)
