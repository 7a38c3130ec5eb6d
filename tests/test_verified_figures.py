"""Figures of verified answers: rows, best of n, averages over kinds, intervals over clusters."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from demand_prompts import options
from verified_rows import mean, row, rows_of

from rankdistill.evaluate import verified as module
from rankdistill.evaluate.verified import (
    Verified,
    difference,
    kinds_of,
    share,
    subset,
    tally,
)
from rankdistill.evaluate.verified_figures import verified_metrics
from rankdistill.prompts.instructions import with_demands


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 500)


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
