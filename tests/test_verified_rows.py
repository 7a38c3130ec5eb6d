"""From answers to rows of demands, and the best of n of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from verified_rows import group, mean, row

from rankdistill.evaluate.verified import (
    best_of_rows,
    best_of_weights,
    demand_rows,
    kinds_of,
    tally,
)
from rankdistill.prompts.demands import demand, kinds


def test_the_rows_of_demands():
    base = {"prompt_id": "b", "split": "train", "messages": [{"role": "user", "content": "Tea?"}]}
    words, sides = kinds()["words"], kinds()["words"].sides
    one = asdict(demand(words, sides[0], False, 0, 0))  # at most 8, opposite at least 25
    two = asdict(demand(kinds()["opening"], kinds()["opening"].sides[1], True, 0, 0))
    own = {**base, **group({"demands": [one, two]}, "Tea is hot.", "tea " * 30, cluster="c")}
    found = demand_rows([own], "trained", ["words"], "ifeval")
    assert [(r.kind, r.side, r.group, r.trained) for r in found] == [
        ("words", "at_most_words", "restrictions", True),
        ("opening", "no_opening", "marks", False),
    ] * 2
    assert [(r.answer, r.followed, r.opposite, r.tokens) for r in found] == [
        (0, 1.0, 0.0, 3), (0, 1.0, 0.0, 3), (1, 0.0, 1.0, 30), (1, 1.0, 0.0, 30),
    ]  # fmt: skip
    assert {(r.arm, r.prompt_id, r.cluster, r.weight) for r in found} == {("trained", "p", "c", 1)}
    assert kinds_of([own], "ifeval") == ["opening", "words"]


def test_the_rows_of_ifevals_own_columns():
    columns = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {"num_words": None}],
    }
    for given in (columns, {key: json.dumps(value) for key, value in columns.items()}):
        found = demand_rows([group(given, '"a"', "a, b")], "x", ["no_comma"], "ifeval")
        assert [(r.kind, r.side, r.followed, r.opposite) for r in found] == [
            ("no_comma", "no_comma", 1.0, None), ("quotation", "quotation", 1.0, None),
            ("no_comma", "no_comma", 0.0, None), ("quotation", "quotation", 0.0, None),
        ]  # fmt: skip
        assert [r.trained for r in found] == [True, False] * 2
        assert [r.cluster for r in found] == ["p"] * 4


def test_another_rule_is_its_one_demand_and_its_score_is_followed():
    found = demand_rows([group({"answer": "4"}, "It is 4.", "3")], "x", ["number"], "number")
    assert [(r.kind, r.side, r.group, r.followed, r.opposite, r.trained) for r in found] == [
        ("number", "number", "other", 1.0, None, True)
    ] * 2
    shares = demand_rows([group({}, "a", scores=[0.25])], "x", [], "mine:rule")
    assert [r.followed for r in shares] == [0.25]
    assert kinds_of([group({"answer": "4"})], "number") == ["number"]


def test_answers_without_a_score_are_left_out_and_keep_their_places():
    of = group({"answer": "4"}, "a", "b", "c", scores=[None, float("nan"), 0.5])
    assert [r.answer for r in demand_rows([of], "x", [], "number")] == [2]
    assert demand_rows([group({"demands": []}, "a")], "x", [], "ifeval") == []


# -------------------------------------------------------------------------------- best of n


@pytest.mark.parametrize(
    ("scores", "n", "expected"),
    [
        ([3, 2, 1, 0], 1, [1 / 4] * 4),
        # 6 pairs: the best is in 3 of them, the second is the best of 2, the third of 1.
        ([3, 2, 1, 0], 2, [3 / 6, 2 / 6, 1 / 6, 0]),
        ([3, 2, 1, 0], 4, [1, 0, 0, 0]),
        # 5 of 6 pairs hold one of the two best, which share them.
        ([1, 0, 1, 0], 2, [5 / 12, 1 / 12, 5 / 12, 1 / 12]),
        ([1, 0, 1, 0], 4, [1 / 2, 0, 1 / 2, 0]),
        ([0, 0, 0, 0], 2, [1 / 4] * 4),
        ([5], 1, [1]),
    ],
)
def test_the_chance_to_be_the_best_of_n(scores, n, expected):
    assert best_of_weights(scores, n) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_share_of_all_choices(seed):
    draw = np.random.default_rng(seed)
    k = int(draw.integers(1, 8))
    scores = draw.integers(0, 4, k).tolist()
    for n in range(1, k + 1):
        counted = np.zeros(k)
        for chosen in combinations(range(k), n):
            best = [i for i in chosen if scores[i] == max(scores[j] for j in chosen)]
            for i in best:
                counted[i] += 1 / len(best)
        found = best_of_weights(scores, n)
        assert found == pytest.approx((counted / counted.sum()).tolist())
        assert sum(found) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [0, 5])
def test_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match=f"the best of {n} answers .* there are 4"):
        best_of_weights([1, 2, 3, 4], n)


def test_the_best_of_n_is_told_by_all_demands_and_pays_for_all_answers():
    # Answer 0 follows both demands, 1 one of them, 2 none; 10, 20 and 60 tokens.
    own = [
        row(kind, value, prompt_id="p", answer=answer, tokens=tokens)
        for answer, (first, second, tokens) in enumerate([(1, 1, 10), (0, 1, 20), (0, 0, 60)])
        for kind, value in (("words", first), ("title", second))
    ]
    found = best_of_rows(own, "warmed_up_best_of_2", 2)
    assert [r.weight for r in found] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0])
    assert {r.arm for r in found} == {"warmed_up_best_of_2"}
    assert {r.tokens for r in found} == {60}  # two answers of 30 tokens on average
    # words: 2/3, title: 1; in the mean of the two kinds 5/6.
    assert mean(tally(found)) == pytest.approx(5 / 6)
    assert mean(tally(best_of_rows(own, "x", 1))) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert [(r.kind, r.answer, r.followed) for r in found] == [
        (r.kind, r.answer, r.followed) for r in own
    ]


def test_each_prompt_has_a_best_of_its_own():
    own = [row(prompt_id=p, answer=i, followed=v) for p, v, i in
           [("p", 1.0, 0), ("p", 0.0, 1), ("q", 0.0, 0), ("q", 1.0, 3)]]  # fmt: skip
    assert [r.weight for r in best_of_rows(own, "x", 2)] == [1, 0, 0, 1]
