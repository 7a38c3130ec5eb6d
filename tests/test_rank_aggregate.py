"""Aggregation against loops that a reader can follow, its invariances, and unconnected duels."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from rankdistill.rank.aggregate import (
    AGGREGATIONS,
    ELO_PERIODS,
    ELO_STEP,
    PRIOR,
    ballot_of,
    borda,
    bradley_terry,
    elo,
)


def vote(*groups, weight: float = 1.0):
    """`vote("a", "bc")`: a before b and c, which tie."""
    places = [(ord(letter) - ord("a"), rank) for rank, tie in enumerate(groups) for letter in tie]
    shown, ranks = zip(*places, strict=True)
    return {"scorer": "judge", "shown": list(shown), "ranks": list(ranks)}, weight


def some_votes(count: int, number: int, seed: int):
    draw = random.Random(seed)
    votes = []
    for _ in range(number):
        shown = draw.sample(range(count), draw.randint(2, count))
        ranks = [draw.randrange(len(shown)) for _ in shown]
        dense = sorted(set(ranks))
        ballot = {"scorer": "x", "shown": shown, "ranks": [dense.index(r) for r in ranks]}
        votes.append((ballot, draw.choice([0.5, 1.0, 2.0])))
    return votes


def games(votes):
    """(i, j, points of i, weight), one for each pair on each ballot."""
    for ballot, weight in votes:
        pairs = list(itertools.combinations(zip(ballot["shown"], ballot["ranks"], strict=True), 2))
        for (i, a), (j, b) in pairs:
            yield i, j, 1.0 if a < b else 0.0 if a > b else 0.5, weight / len(pairs)


def test_borda_by_hand():
    # a beats both (1), b beats c (1/2), c none; then b and c tie: each 1/2.
    assert borda([vote("a", "b", "c"), vote("bc")], 3) == [1.0, 0.5, 0.25]
    assert borda([vote("a", "bc")], 3) == [1.0, 0.25, 0.25]
    # Rounded, so that two ways to the same value end in a tie.
    assert borda([vote("a", "b", "c", "d")], 4) == [1.0, 0.666666667, 0.333333333, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_borda_by_counting(seed):
    votes = some_votes(5, 6, seed)
    for response, value in enumerate(borda(votes, 5)):
        points = weights = 0.0
        for ballot, weight in votes:
            if response in ballot["shown"]:
                own = ballot["ranks"][ballot["shown"].index(response)]
                others = list(ballot["ranks"])
                others.remove(own)
                points += weight * np.mean([1.0 if own < r else 0.5 * (own == r) for r in others])
                weights += weight
        assert value == pytest.approx(points / weights) if weights else math.isnan(value)


def test_bradley_terry_of_two_is_the_log_odds():
    votes = [vote("a", "b", weight=3.0), vote("b", "a")]
    a, b = bradley_terry(votes, 2)
    assert a - b == pytest.approx(math.log(3.0), abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_bradley_terry_by_gradient_descent_on_its_games(seed):
    votes = [*some_votes(4, 8, seed), vote("a", "b", "c", "d", weight=0.1)]
    i, j, points, weight = (np.array(column) for column in zip(*games(votes), strict=True))
    strengths = np.zeros(4)
    for _ in range(20000):
        surplus = weight * (points - 1 / (1 + np.exp(strengths[j] - strengths[i])))
        gradient = -PRIOR * strengths + np.bincount(i, surplus, 4) - np.bincount(j, surplus, 4)
        strengths += 0.3 * gradient
        if np.abs(gradient).max() < 1e-9:
            break
    assert bradley_terry(votes, 4) == pytest.approx(strengths - strengths.mean(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_elo_by_rating_every_game(seed):
    votes = [*some_votes(4, 5, seed), vote("a", "b", "c", "d", weight=0.1)]
    ratings = [0.0] * 4
    for _ in range(ELO_PERIODS):
        gained, played = [0.0] * 4, [0.0] * 4
        for i, j, points, weight in games(votes):
            expected = 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400))
            gained[i] += weight * (points - expected)
            gained[j] -= weight * (points - expected)
            played[i] += weight
            played[j] += weight
        for i in range(4):
            ratings[i] += ELO_STEP * gained[i] / played[i]
    assert elo(votes, 4) == pytest.approx(np.array(ratings) - np.mean(ratings), abs=1e-8)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_relabelling_relabels_and_the_order_of_ballots_is_immaterial(name):
    votes = [*some_votes(5, 7, 3), vote("e", "d", "c", "b", "a")]
    values = AGGREGATIONS[name](votes, 5)
    to = [3, 0, 4, 1, 2]
    renamed = [({**b, "shown": [to[i] for i in b["shown"]]}, w) for b, w in reversed(votes)]
    moved = AGGREGATIONS[name](renamed, 5)
    assert [moved[to[i]] for i in range(5)] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_unanimous_ballots_keep_their_order_and_ties(name):
    values = AGGREGATIONS[name]([vote("c", "ab", "d")] * 3, 4)
    assert values[2] > values[0] > values[3]
    assert values[0] == values[1]


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_doubling_all_weights_changes_no_order(name):
    votes = [*some_votes(4, 6, 9), vote("a", "b", "c", "d")]
    once = AGGREGATIONS[name](votes, 4)
    twice = AGGREGATIONS[name]([(b, 2 * w) for b, w in votes], 4)
    assert np.argsort(once).tolist() == np.argsort(twice).tolist()


@pytest.mark.parametrize("name", ["bradley_terry", "elo"])
def test_what_no_chain_of_duels_connects_has_no_value(name):
    aggregate = AGGREGATIONS[name]
    placed = aggregate([vote("a", "b"), vote("b", "c"), vote("d", "e")], 5)
    assert placed[0] > placed[1] > placed[2] and all(map(math.isnan, placed[3:]))
    # Two islands of the same size: neither can be placed against the other.
    assert all(map(math.isnan, aggregate([vote("a", "b"), vote("c", "d")], 4)))
    assert all(map(math.isnan, aggregate([], 3)))


def test_values_as_a_ballot():
    assert ballot_of("x", [0.5, math.nan, 2.0, 0.5]) == {
        "scorer": "x", "shown": [0, 2, 3], "ranks": [1, 0, 1],
    }  # fmt: skip
