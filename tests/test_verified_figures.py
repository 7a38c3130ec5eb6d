"""Figures of verified answers: rows, best of n, averages over kinds, intervals over clusters."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from demand_prompts import options

from rankdistill.evaluate import verified as module
from rankdistill.evaluate.verified import (
    DemandRow,
    Tally,
    Verified,
    best_of_rows,
    best_of_weights,
    demand_rows,
    difference,
    kinds_of,
    share,
    subset,
    tally,
)
from rankdistill.evaluate.verified_figures import verified_metrics
from rankdistill.prompts.demands import demand, kinds
from rankdistill.prompts.instructions import with_demands

Value = Any


def mean(of: Tally | None) -> float:
    assert of is not None
    return float(of.mean(np.ones(len(of.clusters))))


def row(kind: str = "words", followed: float = 1.0, **changes: Value) -> DemandRow:
    group = kinds()[kind].group if kind in kinds() else "other"
    values = {
        "arm": "trained", "prompt_id": "p", "cluster": "c", "side": kind, "trained": True,
        "answer": 0, "opposite": 1.0 - followed, "tokens": 5,
    }  # fmt: skip
    return DemandRow(**{**values, "kind": kind, "group": group, "followed": followed, **changes})


def rows_of(values: dict[str, list[float]], kind: str = "words", **changes: Value) -> list[Value]:
    """One row per value; the key is cluster and prompt."""
    return [
        row(kind, value, cluster=name, prompt_id=f"{name}{i}", **changes)
        for name, of in values.items()
        for i, value in enumerate(of)
    ]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 500)


# ------------------------------------------------------------------------------------ rows


def group(columns: Value, *texts: str, scores: Value = None, **more: Value) -> Value:
    responses = [{"text": text, "token_ids": [7] * len(text.split())} for text in texts]
    for response, score in zip(responses, scores or [1.0] * len(texts), strict=True):
        response |= {} if score is None else {"score": score}
    return {"prompt_id": "p", "columns": json.dumps(columns), "responses": responses, **more}


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


# --------------------------------------------------------------------------------- averages


def test_a_kind_counts_once_however_often_it_is_asked_for():
    rows = [*rows_of({"c": [1, 0, 0, 0]}), *rows_of({"c": [1]}, "title")]
    assert mean(tally(rows)) == (1 / 4 + 1) / 2
    # Weighted: a kind's share is sum of weight times value over the sum of weights.
    heavy = [row(followed=1.0, weight=0.75), row(followed=0.0, weight=0.25)]
    assert mean(tally(heavy)) == 0.75
    assert (
        mean(tally([replace(r, weight=r.weight * 4) for r in heavy] + rows[4:])) == (0.75 + 1) / 2
    )


def test_a_kind_that_a_resample_does_not_hold_is_left_out_of_its_mean():
    rows = [*rows_of({"a": [1, 0]}), *rows_of({"b": [1]}, "title")]
    of = tally(rows)
    assert of is not None and list(of.clusters) == ["a", "b"]
    assert of.mean(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 1.0]])).tolist() == [
        0.5, 1.0, 0.75, 0.75
    ]  # fmt: skip


def test_own_minus_opposite():
    rows = [
        row(followed=1.0, opposite=0.0),
        row(followed=0.0, opposite=1.0),
        row(followed=0.0, opposite=0.0),
        row("title", followed=1.0, opposite=0.0),
        row("number", followed=1.0, opposite=None),  # has none: left out
    ]
    assert mean(tally(rows, "own_minus_opposite")) == ((1 - 1 + 0) / 3 + 1) / 2
    assert tally([rows[-1]], "own_minus_opposite") is None
    assert tally([]) is None


def test_a_habit_has_no_own_minus_opposite():
    # Always a title, asked for and not asked for equally often.
    rows = [row("title", 1.0, side="title"), row("title", 0.0, side="no_title")]
    assert mean(tally(rows)) == 0.5 and mean(tally(rows, "own_minus_opposite")) == 0.0


def test_strict_is_all_demands_of_a_prompt():
    rows = [
        row("words", 1.0, prompt_id="p", answer=0), row("title", 1.0, prompt_id="p", answer=0),
        row("words", 1.0, prompt_id="p", answer=1), row("title", 0.0, prompt_id="p", answer=1),
        row("bold", 0.0, prompt_id="q"), row("words", 1.0, prompt_id="q"),
        row("bold", 1.0, prompt_id="r"),
    ]  # fmt: skip
    assert mean(tally(rows, "strict")) == 2 / 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trained", ["words", "title", "number"]),
        ("kept_out", ["opening"]),
        ("marks", ["title"]),
        ("restrictions", ["words"]),
        ("title", ["title"]),
        ("opening", ["opening"]),
    ],
)
def test_subsets(name, expected):
    rows = [row("words"), row("title"), row("number"), row("opening", trained=False)]
    assert [r.kind for r in subset(rows, name)] == expected


# -------------------------------------------------------------------------------- intervals


def test_a_difference_is_of_the_clusters_of_both(few):
    a = tally(rows_of({"a": [1.0], "b": [1.0], "only a": [0.0]}))
    b = tally(rows_of({"only b": [1.0], "b": [0.0], "a": [1.0]}))
    assert a is not None and b is not None
    found = difference(a, b, 0)
    assert found is not None and found.mean == 0.5  # (1 + 1) / 2 - (1 + 0) / 2
    turned = difference(b, a, 0)
    assert turned is not None and turned.mean == -0.5
    other = tally(rows_of({"c": [1.0]}))
    assert other is not None and difference(a, other, 0) is None


def test_a_difference_is_paired(few):
    # The clusters differ much, a minus b does not: 0.125 in each.
    values = {f"c{i}": [i / 16] for i in range(8)}
    b = tally(rows_of(values))
    a = tally(rows_of({name: [of[0] + 0.125] for name, of in values.items()}))
    assert a is not None and b is not None
    found = difference(a, b, 0)
    assert found is not None and (found.low, found.high) == pytest.approx((0.125, 0.125))
    own = share(b, 0)
    assert own.low is not None and own.high is not None and own.high - own.low > 0.15


def test_more_rows_of_the_same_say_no_more(few):
    draw = np.random.default_rng(0)
    rows = [
        row(kind, float(draw.random() < 0.4), cluster=f"c{i % 20}", prompt_id=f"p{i}")
        for i, kind in enumerate(["words", "title"] * 30)
    ]
    once, twice = tally(rows), tally([*rows, *rows])
    assert once is not None and twice is not None
    assert share(once, 0) == share(twice, 0)
    # As clusters of their own they would.
    copies = [replace(r, cluster=f"{r.cluster} again") for r in rows]
    apart = tally([*rows, *copies])
    assert apart is not None
    wide, narrow = share(once, 0), share(apart, 0)
    assert wide.mean == narrow.mean
    assert narrow.high - narrow.low < 0.85 * (wide.high - wide.low)  # type: ignore[operator]


def test_one_cluster_has_no_interval():
    of = tally([row(followed=float(i % 2), prompt_id=f"p{i}") for i in range(200)])
    assert of is not None
    found = share(of, 0)
    assert (found.mean, found.low, found.high) == (0.5, None, None)


@pytest.mark.filterwarnings("error")
def test_equal_clusters_have_an_interval_of_their_mean_and_nobody_is_warned(few):
    of = tally(rows_of({"a": [1.0], "b": [1.0], "c": [1.0]}))
    assert of is not None
    assert asdict(share(of, 0)) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    # 40 clusters of 8 prompts, whose chance to follow is drawn for the cluster: half on average.
    # Without clusters the intervals would be too short, by a factor of about 2.
    monkeypatch.setattr(module, "RESAMPLES", 300)
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        chances = draw.beta(0.7, 0.7, 40)
        values = {f"c{i}": (draw.random(8) < c).astype(float).tolist() for i, c in
                  enumerate(chances)}  # fmt: skip
        of = tally(rows_of(values))
        assert of is not None
        found = share(of, 0)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    assert 0.88 <= held / 200 <= 0.99


# ----------------------------------------------------------------------------- the metrics


def arms(**followed: list[float]) -> Verified:
    """One row per cluster and arm, all of one kind."""
    rows = [
        row(followed=value, arm=arm, cluster=f"c{i}", prompt_id=f"p{i}")
        for arm, values in followed.items()
        for i, value in enumerate(values)
    ]
    return Verified(rows, {arm: arm.title() for arm in [*followed, "nobody"]}, None, {}, "ifeval")


BEFORE, AFTER = [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("greedy", "headline"), [([0.0, 0.0, 1.0, 1.0], "greedy"), ([1.0, 1.0, 1.0, 1.0], "sampled")]
)
def test_the_headline_is_the_smaller_gain(few, greedy, headline):
    found = verified_metrics(
        arms(trained=AFTER, warmed_up=BEFORE, trained_greedy=greedy, warmed_up_greedy=BEFORE), 0
    )
    assert found["headline"] == headline
    assert found["contrasts"]["sampled"]["trained"]["mean"] == 0.5
    assert found["contrasts"]["greedy"]["trained"]["mean"] == sum(greedy) / 4 - 0.25
    assert found["contrasts"]["sampled"]["of"] == "trained"
    assert found["contrasts"]["sampled"]["over"] == "warmed_up"


def test_contrasts_are_of_arms_that_are_there(few):
    found = verified_metrics(arms(trained=AFTER, teacher=AFTER), 0)
    assert list(found["contrasts"]) == ["teacher"] and found["headline"] is None
    every = verified_metrics(
        arms(trained=AFTER, warmed_up=BEFORE, sharpened=BEFORE, warmed_up_prompted=BEFORE), 0
    )
    assert list(every["contrasts"]) == ["sampled", "same_entropy", "prompt"]
    assert every["headline"] == "sampled"
    assert list(every["arms"]) == ["trained", "warmed_up", "sharpened", "warmed_up_prompted"]
    assert every["arms"]["warmed_up"]["label"] == "Warmed_Up"
    assert every["clusters"] == 4 and every["rule"] == "ifeval"


def test_arms_have_every_figure_and_kinds_their_order(few):
    rows = [
        row("words", 1.0, cluster="a", prompt_id="p", side="at_most_words", tokens=4),
        row("title", 0.0, cluster="a", prompt_id="p", side="title", tokens=4),
        row("words", 0.0, cluster="b", prompt_id="q", side="at_least_words", tokens=8),
        row("commas", 1.0, cluster="b", prompt_id="q", side="no_comma", tokens=8),
        row("opening", 1.0, cluster="b", prompt_id="r", side="opening", trained=False, tokens=3),
    ]
    found = verified_metrics(Verified(rows, {"trained": "DPO"}, {"chosen": "x"}, {"a": {}}, "r"), 0)
    arm = found["arms"]["trained"]
    assert (arm["label"], arm["prompts"], arm["answers"], arm["tokens"]) == ("DPO", 3, 3, 5)
    # words 1/2, title 0, commas 1; marks: title; restrictions: words and commas; opening.
    means = {name: arm[name]["mean"] for name in ("trained", "marks", "restrictions", "kept_out")}
    assert means == {"trained": 0.5, "marks": 0.0, "restrictions": 0.75, "kept_out": 1.0}
    # opposite is 1 - followed: words (1 - 1) / 2, title -1, commas 1.
    assert arm["own_minus_opposite"]["trained"]["mean"] == 0.0
    assert arm["own_minus_opposite"]["kept_out"]["mean"] == 1.0
    assert arm["prompt_strict"]["mean"] == 0.0  # of p and of q, one demand is missed each
    assert arm["demand_strict"]["mean"] == 2 / 4
    assert list(arm["kinds"]) == ["commas", "words", "title", "opening"]
    assert arm["kinds"]["words"]["sides"] == {"at_least_words": 0.0, "at_most_words": 1.0}
    assert arm["kinds"]["words"]["answers"] == 2 and arm["kinds"]["opening"]["trained"] is False
    assert arm["kept_out"]["low"] is None  # one cluster
    assert found["prompting"] == {"chosen": "x"} and found["guards"] == {"a": {}}


def test_a_contrast_is_of_each_subset_and_of_the_kinds_of_both(few):
    rows = [
        row("words", 1.0, cluster="a"), row("title", 1.0, cluster="b"),
        row("words", 0.0, cluster="a", arm="warmed_up"),
        row("commas", 0.0, cluster="b", arm="warmed_up"),
    ]  # fmt: skip
    found = verified_metrics(Verified(rows, {"trained": "a", "warmed_up": "b"}, None, {}, "r"), 0)
    contrast = found["contrasts"]["sampled"]
    assert contrast["restrictions"]["mean"] == 1.0
    assert contrast["marks"] is None and contrast["kept_out"] is None
    assert list(contrast["kinds"]) == ["words"] and contrast["kinds"]["words"]["mean"] == 1.0


def test_no_gain_is_known_where_nothing_is_trained(few):
    rows = [row("opening", 1.0, trained=False, arm=arm) for arm in ("trained", "warmed_up")]
    found = verified_metrics(Verified(rows, {"trained": "a", "warmed_up": "b"}, None, {}, "r"), 0)
    assert found["headline"] is None
    assert found["contrasts"]["sampled"]["trained"] is None
    assert found["arms"]["trained"]["trained"] is None
    assert found["arms"]["trained"]["prompt_strict"] is None


def test_kinds_of_the_shipped_prompts(tokenizer):
    base = {"prompt_id": "b", "split": "train", "messages": [{"role": "user", "content": "Tea?"}]}
    made = with_demands([base] * 60, options(kinds=["words", "title"], demands_per_prompt=[1]))  # type: ignore[list-item]
    assert kinds_of(made, "ifeval") == ["title", "words"]
