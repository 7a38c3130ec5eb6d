"""Scores to ranks, what is set aside, and what is selected."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from rankdistill.errors import UserError
from rankdistill.rank import rank_group, rank_groups, ranks, select
from rankdistill.rank.write import write_table
from rankdistill.schema import RankConfig, Select


def response(ids: list[int], score: float) -> dict:
    return {
        "text": str(ids), "token_ids": ids, "finish_reason": "stop", "source": "student",
        "scores": {"likelihood": score}, "score": score,
    }  # fmt: skip


def group(*scores: float, prompt_id: str = "p", split: str = "train") -> dict:
    responses = [response([5, i], score) for i, score in enumerate(scores)]
    messages = [{"role": "user", "content": "?"}]
    return {"prompt_id": prompt_id, "split": split, "messages": messages, "responses": responses}


def config(**changes) -> RankConfig:
    values = {"path": None, "tie_margin": 0.0, "select": Select.all, "top_k": 2}
    values |= dict.fromkeys(("score_column", "responses_per_prompt", "max_response_tokens"))
    return RankConfig(**{**values, **changes})


def test_ranks_of_distinct_scores():
    assert ranks([-1.0, -3.0, -2.0]) == [0, 2, 1]


def test_exact_ties_share_a_dense_rank():
    assert ranks([1.0, 2.0, 1.0, 0.0]) == [1, 0, 1, 2]


def test_a_margin_ties_with_the_first_of_the_tie_not_with_the_last():
    # 2.0 leads; 1.6 is within 0.5 of it, 1.4 is not, though it is within 0.5 of 1.6.
    assert ranks([2.0, 1.6, 1.4, 1.0], tie_margin=0.5) == [0, 0, 1, 1]


def test_duplicates_by_token_ids_are_dropped_and_counted():
    counts: Counter[str] = Counter()
    g = group(1.0, 2.0)
    g["responses"].append({**response([5, 0], 1.0), "text": "same ids, other text"})
    ranked = rank_group(g, 0.0, counts)
    assert ranked and [r["rank"] for r in ranked["responses"]] == [0, 1]
    assert [r["score"] for r in ranked["responses"]] == [2.0, 1.0]
    assert counts["duplicates"] == 1


@pytest.mark.parametrize(
    ("scores", "reason"),
    [((1.0, 1.0, 1.0), "all_tied"), ((1.0,), "single"), ((1.0, math.nan), "score_missing")],
)
def test_groups_that_teach_nothing_are_set_aside_and_counted(scores, reason):
    kept, counts = rank_groups([group(*scores), group(1.0, 0.0, prompt_id="q")], config(), seed=0)
    assert [g["prompt_id"] for g in kept] == ["q"]
    assert counts[reason] == 1 and counts["ranked"] == 1


def test_nothing_left_says_why():
    with pytest.raises(UserError, match="2 groups, set aside: 2 all_tied"):
        rank_groups([group(1.0, 1.0), group(0.0, 0.0)], config(), seed=0)
    # What a validation prompt has left trains nobody.
    validation = group(1.0, 0.0, prompt_id="v", split="validation")
    with pytest.raises(UserError, match="no group is left to train on: 2 groups"):
        rank_groups([group(1.0, 1.0), validation], config(), seed=0)
    assert rank_groups([validation], config(), seed=0)[0]


def test_select():
    ranked = rank_group(group(0.0, 3.0, 2.0, 3.0), 0.0, Counter())
    assert ranked is not None
    score = lambda g: [r["score"] for r in g["responses"]]  # noqa: E731
    assert score(select(ranked, "all", 2, 0)) == [3.0, 3.0, 2.0, 0.0]
    assert score(select(ranked, "best_worst", 2, 0)) == [3.0, 0.0]
    # The two best are tied: a second rank comes with the third.
    assert score(select(ranked, "top_k", 2, 0)) == [3.0, 3.0, 2.0]
    drawn = [score(select(ranked, "best_random", 2, seed))[1] for seed in range(40)]
    assert set(drawn) == {2.0, 0.0}
    assert drawn == [score(select(ranked, "best_random", 2, seed))[1] for seed in range(40)]


def test_shorter_rankings_are_within_longer_ones():
    ranked = rank_group(group(0.0, 3.0, 2.0, 3.0, 1.0), 0.0, Counter())
    assert ranked is not None
    seen = set()
    for seed in range(40):
        lengths = [select(ranked, "random_k", k, seed)["responses"] for k in (2, 3, 4, 5)]
        for shorter, longer in itertools.pairwise(lengths):
            assert all(response in longer for response in shorter)
        assert lengths[-1] == ranked["responses"]
        for responses in lengths:
            scores = [r["score"] for r in responses]
            assert len(set(scores)) > 1 and scores == sorted(scores, reverse=True)
        seen.add(tuple(r["score"] for r in lengths[0]))
    assert len(seen) > 5  # of all pairs, not of the best ones alone


def test_spread_keeps_both_ends_and_what_is_between():
    ranked = rank_group(group(*map(float, range(9))), 0.0, Counter())
    chosen = [r["score"] for r in select(ranked, "spread", 3, 0)["responses"]]
    assert chosen == [8.0, 4.0, 0.0]
    assert select(ranked, "spread", 2, 0)["responses"] == [
        ranked["responses"][0], ranked["responses"][-1]
    ]  # fmt: skip
    assert select(ranked, "spread", 12, 0)["responses"] == ranked["responses"]


def test_the_table_is_a_data_set_that_others_load(tmp_path):
    from datasets import load_dataset

    rows = [group(1.0, 0.0), group(2.0, 1.0, prompt_id="v", split="validation")]
    kept, _ = rank_groups(rows, config(), seed=0)
    write_table(kept, tmp_path / "ranked")
    loaded = load_dataset(str(tmp_path / "ranked"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0] == kept[0]
    assert loaded["validation"][0]["prompt_id"] == "v"
