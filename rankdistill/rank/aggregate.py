"""Several votes on the responses to one prompt become one value per response.

A vote is a `Ballot`: some of the responses, each with a rank, ties sharing one. Responses that a
ballot does not show are not judged by it. The functions here know nothing of prompts or scorers;
relabelling the responses relabels the values, and the order of the ballots changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from rankdistill.rows import Ballot

Vote = tuple[Ballot, float]
"""A ballot and its weight, above 0."""

PRIOR = 0.01
"""Precision of the normal prior on Bradley-Terry strengths: keeps one that never lost finite."""
ELO_SCALE = 400.0 / math.log(10.0)
"""Points of Elo a nat of Bradley-Terry strength."""
ELO_STEP, ELO_PERIODS = 32.0, 100
_NEWTON_STEPS, _SMALLEST = 100, 1e-12
_DIGITS = 9
"""Values are rounded to these, so that rounding in the last bits breaks no tie."""


def ballot_of(scorer: str, values: Sequence[float]) -> Ballot:
    """The order in which a scorer's values put the responses that have one."""
    shown = [i for i, value in enumerate(values) if math.isfinite(value)]
    order = sorted({values[i] for i in shown}, reverse=True)
    return Ballot(scorer=scorer, shown=shown, ranks=[order.index(values[i]) for i in shown])


def duels(votes: Sequence[Vote], count: int) -> np.ndarray:
    """[C, C] how often (weighted) the row's response was put before the column's, ties half.

    A ballot counts its weight once, however many responses it shows: each of its pairs counts
    2 / (m (m - 1)) of it, a duel of two its whole weight.
    """
    wins = np.zeros((count, count))
    for ballot, weight in votes:
        shown, ranks = np.array(ballot["shown"], int), np.array(ballot["ranks"], float)
        if len(shown) < 2:
            continue
        before = np.sign(ranks[None, :] - ranks[:, None])
        share = (before + 1) / 2
        np.fill_diagonal(share, 0.0)
        pairs = len(shown) * (len(shown) - 1) / 2
        wins[np.ix_(shown, shown)] += share * weight / pairs
    return wins


def borda(votes: Sequence[Vote], count: int) -> list[float]:
    """The mean share of the others that a response was put before, ties half; in [0, 1].

    A ballot of m responses gives the one at the top 1, the one at the bottom 0 (Borda's points over
    m - 1). Each response's mean is over the ballots that show it; NaN where none does.
    """
    points, weights = np.zeros(count), np.zeros(count)
    for ballot, weight in votes:
        ranks = np.array(ballot["ranks"], float)
        if len(ranks) < 2:
            continue
        below = np.sign(ranks[None, :] - ranks[:, None]).sum(1)
        shown = ballot["shown"]
        points[shown] += weight * (below / (len(ranks) - 1) + 1) / 2
        weights[shown] += weight
    with np.errstate(invalid="ignore"):
        return (points / np.where(weights > 0, weights, math.nan)).round(_DIGITS).tolist()


def bradley_terry(votes: Sequence[Vote], count: int) -> list[float]:
    """Strengths s, in nats: P(i before j) = sigmoid(s_i - s_j); their mean is 0.

    Bradley and Terry 1952, by the maximum a posteriori under a wide normal prior (`PRIOR`), a tie
    being half a win of each. Only what is compared directly or by a chain can be placed: outside
    the largest connected set of responses the strength is NaN, and everywhere where two sets are
    equally large.
    """
    wins = duels(votes, count)
    games, strengths = wins + wins.T, np.zeros(count)

    def loss(at: np.ndarray) -> float:
        gaps = at[:, None] - at[None, :]
        return float((wins * np.logaddexp(0.0, -gaps)).sum() + PRIOR / 2 * (at**2).sum())

    for _ in range(_NEWTON_STEPS):
        chance = expit(strengths[:, None] - strengths[None, :])
        gradient = (games * chance - wins).sum(1) + PRIOR * strengths
        curvature = games * chance * (1 - chance)
        hessian = np.diag(curvature.sum(1) + PRIOR) - curvature
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > _SMALLEST and loss(strengths - size * step) > loss(strengths):
            size /= 2
        strengths = strengths - size * step
        if np.abs(step).max() < _SMALLEST:
            break
    return _placed(strengths, wins)


def elo(votes: Sequence[Vote], count: int) -> list[float]:
    """Elo ratings around 0: a gap of 400 is 10 to 1. Rated in periods, as chess federations do.

    All games of a period are rated by the ratings at its start: a response gains `ELO_STEP` times
    the mean of result minus expectation over its games, so the order of the games is immaterial.
    The same games are rated for `ELO_PERIODS` periods. Unconnected responses as in `bradley_terry`.
    """
    wins = duels(votes, count)
    games = wins + wins.T
    total = games.sum(1)
    ratings = np.zeros(count)
    for _ in range(ELO_PERIODS):
        expected = expit((ratings[:, None] - ratings[None, :]) / ELO_SCALE)
        surplus = (wins - games * expected).sum(1)
        ratings = ratings + ELO_STEP * surplus / np.where(total > 0, total, 1.0)
    return _placed(ratings, wins)


AGGREGATIONS: dict[str, Callable[[Sequence[Vote], int], list[float]]] = {
    "borda": borda,
    "bradley_terry": bradley_terry,
    "elo": elo,
}


def _placed(values: np.ndarray, wins: np.ndarray) -> list[float]:
    """The values of the largest set that comparisons connect, around their mean; NaN elsewhere."""
    count, labels = connected_components(wins > 0, directed=False)
    sizes = np.bincount(labels, minlength=count)
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) > 1 or sizes.max() < 2:
        return [math.nan] * len(values)
    inside = labels == largest[0]
    return np.where(inside, values - values[inside].mean(), math.nan).round(_DIGITS).tolist()
