"""Whether a reward model may be trained on: how it orders pairs that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from rankdistill.errors import UserError
from rankdistill.statistics import Interval, mean_interval

LENGTH_MATCH = 0.1
"""Two responses are of like length if they differ by at most this share of the longer one."""

BINS = 5
"""Of the calibration, over the stated probability, which is in [0.5, 1]."""


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt of which the ranking prefers the first."""

    gap: float
    """Reward of the first minus the second's, as the reward model states its log-odds."""
    lengths: tuple[int, int]
    """Tokens of the two."""

    @property
    def right(self) -> float:
        """1.0, or 0.5 for equal rewards."""
        return _sign_share(self.gap)

    @property
    def longer_wins(self) -> float:
        """What the rule "the longer one is better" gets."""
        return _sign_share(self.lengths[0] - self.lengths[1])

    @property
    def of_like_length(self) -> bool:
        return abs(self.lengths[0] - self.lengths[1]) <= LENGTH_MATCH * max(self.lengths)


@dataclass(frozen=True)
class Bin:
    """Pairs for whose likelier order the model states about the same probability."""

    stated: float
    """Mean probability."""
    observed: float
    """Share of pairs in that order."""
    pairs: int


@dataclass(frozen=True)
class GateFigures:
    """How a reward model orders held-out pairs; every interval is over prompts."""

    prompts: int
    pairs: int
    accuracy: Interval
    """Share of strict pairs in the ranking's order, averaged over prompts."""
    longer_wins: Interval
    """The same for "the longer response is better"."""
    beyond_length: Interval
    """Accuracy minus that of "longer wins", prompt by prompt."""
    like_length: Interval | None
    """Accuracy on pairs of like length; None without such a pair."""
    like_length_pairs: int
    calibration_error: float
    """Mean of |stated - observed| over the bins, weighted by their pairs."""
    calibration: Sequence[Bin]

    def row(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def gate_figures(
    rewards: Sequence[Sequence[float]],
    ranks: Sequence[Sequence[int]],
    lengths: Sequence[Sequence[int]],
    *,
    seed: int,
) -> GateFigures:
    """The figures of held-out groups, each with its responses' rewards, ranks and lengths.

    The rewards are log-odds, before any scale.

    Raises:
        UserError: no group has a strict pair.
    """
    by_prompt = [
        pairs for group in zip(rewards, ranks, lengths, strict=True) if (pairs := _pairs(*group))
    ]
    if not by_prompt:
        raise UserError(
            "No held-out group has two responses of different rank, so the reward model cannot be "
            "judged: leave more prompts to prompts.splits.validation, or raise "
            "prompts.limit.validation."
        )
    pairs = [pair for of_prompt in by_prompt for pair in of_prompt]
    like = [[p for p in of_prompt if p.of_like_length] for of_prompt in by_prompt]
    like = [of_prompt for of_prompt in like if of_prompt]
    bins = _calibration([pair.gap for pair in pairs])
    accuracies = [fmean(pair.right for pair in of_prompt) for of_prompt in by_prompt]
    by_length = [fmean(pair.longer_wins for pair in of_prompt) for of_prompt in by_prompt]
    beyond = [a - b for a, b in zip(accuracies, by_length, strict=True)]
    matched = [fmean(pair.right for pair in of_prompt) for of_prompt in like]
    return GateFigures(
        prompts=len(by_prompt),
        pairs=len(pairs),
        accuracy=mean_interval(accuracies, seed=seed),
        longer_wins=mean_interval(by_length, seed=seed),
        beyond_length=mean_interval(beyond, seed=seed),
        like_length=mean_interval(matched, seed=seed) if matched else None,
        like_length_pairs=sum(map(len, like)),
        calibration_error=sum(b.pairs * abs(b.stated - b.observed) for b in bins) / len(pairs),
        calibration=bins,
    )


def check_gate(figures: Mapping[str, Any], least: float) -> None:
    """Stops a run whose reward model is not good enough to be trained on.

    Args:
        figures: `GateFigures.row()`.
        least: `reward.min_accuracy`.

    Raises:
        UserError: the accuracy is below it.
    """
    accuracy, longer = figures["accuracy"], figures["longer_wins"]["mean"]
    if accuracy["mean"] >= least:
        return
    raise UserError(
        f"The reward model orders {accuracy['mean']:.1%} of {figures['pairs']} held-out pairs as "
        f"the ranking does ('longer wins' orders {longer:.1%}), below "
        f"reward.min_accuracy={least:g}, so PPO would learn its mistakes: train it on more groups "
        "or longer (reward.epochs, reward.learning_rate), take a larger reward.backbone, or lower "
        "reward.min_accuracy."
    )


def _pairs(rewards: Sequence[float], ranks: Sequence[int], lengths: Sequence[int]) -> list[Pair]:
    pairs = []
    for i, j in combinations(range(len(ranks)), 2):
        if ranks[i] != ranks[j]:
            first, second = (i, j) if ranks[i] < ranks[j] else (j, i)
            gap = rewards[first] - rewards[second]
            pairs.append(Pair(gap, (lengths[first], lengths[second])))
    return pairs


def _calibration(gaps: Sequence[float]) -> list[Bin]:
    """Bins of equal width over the probability of the order that the model holds likelier."""
    members: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for gap in gaps:
        stated = 1.0 / (1.0 + math.exp(-min(abs(gap), 500.0)))
        members[min(BINS - 1, int((stated - 0.5) * 2 * BINS))].append((stated, _sign_share(gap)))
    return [
        Bin(fmean(s for s, _ in rows), fmean(o for _, o in rows), len(rows))
        for rows in members
        if rows
    ]


def _sign_share(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
