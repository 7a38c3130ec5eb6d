"""Diversity, repetition and length on rows that can be counted by hand."""

from __future__ import annotations

import pytest

from rankdistill.evaluate.model_figures import (
    cut_share,
    distinct_n,
    group_distinct_2,
    mean_length,
    repetition,
)
from rankdistill.rows import Group, Response


def response(token_ids: list[int], finish: str = "stop") -> Response:
    return {"text": "", "token_ids": token_ids, "finish_reason": finish, "source": "student"}  # type: ignore[typeddict-item]


def group(*responses: Response) -> Group:
    return {"prompt_id": "p", "split": "heldout", "messages": [], "responses": list(responses)}


def test_distinct_n_counts_across_responses_but_not_over_their_borders():
    assert distinct_n([[1, 2, 3], [1, 2, 4]]) == 3 / 4  # 12 23 | 12 24
    assert distinct_n([[1, 2], [3, 4]]) == 1.0  # 23 is no bigram
    assert distinct_n([[7, 7, 7, 7, 7]]) == 1 / 4
    assert distinct_n([[1, 2, 1, 2]], n=1) == 2 / 4


def test_distinct_n_of_nothing_is_none():
    assert distinct_n([]) is None
    assert distinct_n([[1], []]) is None
    with pytest.raises(ValueError, match="at least one token"):
        distinct_n([[1, 2]], n=0)


def test_repetition_is_the_share_of_trigrams_seen_before():
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([1, 2, 3, 1, 2, 3]) == 1 / 4  # 123 231 312 | 123 again
    assert repetition([9] * 12) == 9 / 10
    assert repetition([1, 2]) == 0.0


def test_length_and_cut_share():
    responses = [response([1, 2, 3]), response([1], "length"), response([5, 6, 7, 8, 9])]
    assert mean_length(responses) == 3.0
    assert cut_share(responses) == pytest.approx(1 / 3)


def test_group_distinct_2_averages_over_prompts():
    one = group(response([1, 2, 3]), response([1, 2, 3]))  # 2 of 4
    other = group(response([4, 5, 6]), response([7, 8, 9]))  # 4 of 4
    empty = group(response([1]), response([2]))  # no bigram
    assert group_distinct_2([one, other, empty]) == (0.5 + 1.0) / 2
    assert group_distinct_2([empty]) is None
