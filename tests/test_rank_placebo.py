"""Placebo ranks: the same scores and ranks, on responses that have not earned them."""

from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import kendalltau
from test_rank import config, group
from tiny_models import build_tokenizer
from tiny_run import composed

from rankdistill.models import Rows
from rankdistill.rank import rank_groups
from rankdistill.schema import Select
from rankdistill.stages import settings
from rankdistill.stages.rank import rank
from rankdistill.store import Store, key_of


def groups(count: int, size: int = 6, split: str = "train") -> list[Any]:
    """Groups with some ties."""
    draw = random.Random(0)
    return [
        group(*(draw.randrange(9) for _ in range(size)), prompt_id=f"p{i}", split=split)
        for i in range(count)
    ]


def places(row: Any) -> list[tuple[float, int]]:
    return [(response["score"], response["rank"]) for response in row["responses"]]


def texts(rows: list[Any]) -> list[list[str]]:
    return [[response["text"] for response in row["responses"]] for row in rows]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_scores_and_ranks_stay_and_move_to_other_responses(split):
    given = groups(40, split=split)
    true, true_counts = rank_groups(given, config(), seed=0)
    dealt, counts = rank_groups(given, config(placebo=True), seed=0)
    assert [places(row) for row in dealt] == [places(row) for row in true]  # best first, with ties
    assert any(len({rank for _, rank in places(row)}) < 6 for row in true)
    assert texts(dealt) != texts(true)
    for a, b in zip(dealt, true, strict=True):
        plain = [[{**r, "score": 0, "rank": 0} for r in row["responses"]] for row in (a, b)]
        assert sorted(plain[0], key=str) == sorted(plain[1], key=str)  # the scorers' values too
    assert counts == true_counts + Counter(placebo_groups=len(true))


def test_the_deal_is_told_by_the_seed_and_the_prompt():
    given, on = groups(40), config(placebo=True)
    whole = rank_groups(given, on, seed=0)[0]
    assert rank_groups(given, on, seed=0)[0] == whole
    assert rank_groups(given[::-1][:7], on, seed=0)[0] == whole[::-1][:7]
    assert texts(rank_groups(given, on, seed=1)[0]) != texts(whole)


def test_held_out_rankings_stay_as_they_are():
    given = groups(40, split="heldout")
    dealt, counts = rank_groups(given, config(placebo=True), seed=0)
    assert dealt == rank_groups(given, config(), seed=0)[0] and not counts["placebo_groups"]


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_placebo_ranks_know_nothing_of_the_true_ones(margin):
    taus = []
    for row in rank_groups(groups(400), config(placebo=True, tie_margin=margin), seed=0)[0]:
        true = [response["scores"]["likelihood"] for response in row["responses"]]
        taus.append(kendalltau(true, [-rank for _, rank in places(row)]).statistic)
    assert len(taus) > 390 and abs(sum(taus) / len(taus)) < 0.06


def test_every_deal_is_equally_likely():
    """Chi-squared of the 6 orders of three responses; below 20.5 in 999 of 1000 draws."""
    rows = [group(0.0, 1.0, 2.0, prompt_id=f"p{i}") for i in range(600)]
    seen = Counter(map(tuple, texts(rank_groups(rows, config(placebo=True), seed=0)[0])))
    assert len(seen) == 6 and sum((n - 100) ** 2 / 100 for n in seen.values()) < 20.5


def test_the_order_within_a_tie_says_nothing_either():
    """A selection of the best and the worst takes the first and the last of a tie."""
    rows = [group(0.0, 0.0, 1.0, 1.0, prompt_id=f"p{i}") for i in range(400)]
    chosen = config(placebo=True, select=Select.best_worst)
    kept = rank_groups(rows, chosen, seed=0)[0]
    assert all(places(row) == [(1.0, 0), (0.0, 1)] for row in kept)
    better = sum(row["responses"][0]["scores"]["likelihood"] for row in kept) / len(kept)
    assert better == pytest.approx(0.5, abs=0.1)


def test_ballots_stay_with_their_responses():
    given = group(0.0, 1.0, 2.0, 3.0)
    given["ballots"] = [{"scorer": "judge", "shown": [0, 3], "ranks": [1, 0]}]
    for seed in range(5):
        [row] = rank_groups([given], config(placebo=True), seed)[0]
        [ballot] = row["ballots"]
        assert [row["responses"][i]["text"] for i in ballot["shown"]] == ["[5, 0]", "[5, 3]"]


# ---------------------------------------------------------------------------------------- the stage


def ranked(seed: int = 0, **changes: Any):
    """The stage's output, in a store of its own."""
    run: Any = SimpleNamespace(
        settings=SimpleNamespace(rank=config(**changes), seed=seed),
        start=SimpleNamespace(tokenizer=build_tokenizer),
        stage=lambda name, what, identity, make: Store().output(name, identity, make),
    )
    return rank(run, Rows(groups(9), "the groups"))


def test_the_key_changes_only_where_it_is_on():
    off = {
        "code": 2, "groups": "the groups", "weights": None, "aggregate": "mean",
        "length_debias": False, "tie_margin": 0.0, "select": "all", "top_k": None, "seed": None,
    }  # fmt: skip
    assert ranked().key == ranked(seed=1).key == key_of("rank", off)
    on = {**off, "placebo": True, "seed": 0}
    assert ranked(placebo=True).key == key_of("rank", on)
    assert ranked(placebo=True, seed=1).key == key_of("rank", {**on, "seed": 1})
    drawn = {"select": Select.random_k, "top_k": 3}
    assert ranked(**drawn).key != ranked(**drawn, placebo=True).key


def test_the_stage_counts_them():
    assert "placebo_groups" not in ranked().manifest["counts"]
    output = ranked(placebo=True)
    assert output.manifest["counts"]["placebo_groups"] == len(output.rows())
    assert all(math.isfinite(score) for row in output.rows() for score, _ in places(row))


def test_it_composes_and_is_off_by_itself():
    assert settings.build(composed("recipe=dpo", "rank.placebo=true")).rank.placebo is True
    assert settings.build(composed("recipe=dpo")).rank.placebo is False
