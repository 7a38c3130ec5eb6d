"""How good an order of passages is, a value per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

CUTOFF = 10


def ndcg(order: Sequence[str], gains: Mapping[str, float], cutoff: int = CUTOFF) -> float:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002), in [0, 1].

    ``DCG = sum over the first `cutoff` of gain / log2(1 + place)``, divided by that of the best
    order of all that has a gain, also of what `order` lacks: not to retrieve costs as well.

    Args:
        order: Ids, the best first.
        gains: Of each id that has one; at least one is positive.
    """
    best = sorted(gains.values(), reverse=True)
    return _dcg([gains.get(name, 0.0) for name in order[:cutoff]]) / _dcg(best[:cutoff])


def reciprocal_rank(order: Sequence[str], gains: Mapping[str, float]) -> float:
    """1 over the place of the first passage with the highest gain; 0 below `CUTOFF`: MRR@10."""
    best = max(gains.values())
    places = (i for i, name in enumerate(order[:CUTOFF], 1) if gains.get(name, 0.0) == best)
    return 1.0 / next(places, float("inf"))


def reordered(order: Sequence[str], scores: Sequence[float]) -> list[str]:
    """By the scores, the highest first; equal ones stay as they are."""
    return [order[i] for i in sorted(range(len(order)), key=lambda i: -scores[i])]


def graded(scores: Sequence[float]) -> list[float]:
    """Gains from a teacher's scores: the share of the other passages that each is above."""
    return [sum(other < score for other in scores) / (len(scores) - 1) for score in scores]


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / log2(1 + place) for place, gain in enumerate(gains, 1))
