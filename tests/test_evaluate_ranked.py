"""Order of held-out rankings: values that can be redone by hand."""

from __future__ import annotations

from functools import partial

import pytest

from rankdistill.evaluate.ranked import (
    Ranking,
    accuracy,
    by_log_ratio,
    by_prompt,
    by_sum,
    matched_pairs,
    pairs,
)

LIST = Ranking("p", ranks=[0, 1, 1, 2], tokens=[4, 4, 2, 1], whole_tokens=[100, 90, 89, 10])


def test_pairs_are_strict_and_better_first():
    assert pairs(LIST) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]


def test_lengths_match_by_the_share_that_the_shorter_lacks_before_any_cut():
    # 90 is exactly 10 % shorter than 100; 89 is more.
    assert matched_pairs(LIST, 0.1) == [(0, 1)]
    assert matched_pairs(LIST, 0.0) == []
    assert matched_pairs(LIST, 0.11) == [(0, 1), (0, 2)]


def test_accuracy_counts_a_tie_half():
    values = [-1.0, -1.0, -2.0, -0.5]
    # (0,1) tie, (0,2) right, (0,3), (1,3), (2,3) wrong.
    assert accuracy(values, pairs(LIST)) == pytest.approx(1.5 / 5)
    assert accuracy(values, []) is None


def test_the_longer_first_is_a_policy_like_any_other():
    assert by_prompt([LIST], [[float(n) for n in LIST.whole_tokens]]) == {"p": 1.0}


def test_sums_and_log_ratios():
    means, before = [-1.0, -2.0, -1.0, -3.0], [-1.5, -2.0, -2.0, -2.0]
    assert by_sum(LIST, means) == [-4.0, -8.0, -2.0, -3.0]
    assert by_log_ratio(LIST, means, before) == [2.0, 0.0, 2.0, -1.0]


def test_prompts_without_such_a_pair_are_left_out():
    other = Ranking("q", ranks=[0, 1], tokens=[3, 3], whole_tokens=[3, 30])
    values = [[4.0, 3.0, 2.0, 1.0], [1.0, 2.0]]
    assert by_prompt([LIST, other], values) == {"p": 1.0, "q": 0.0}
    matched = partial(matched_pairs, length_match=0.1)
    assert by_prompt([LIST, other], values, matched) == {"p": 1.0}
