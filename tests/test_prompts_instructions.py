"""Prompts with demands: the draw, what may meet, splits by a column, a person's mistakes."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

import pytest
from demand_prompts import KINDS, SHARES, SHIPPED, demands, drawn, everyday, of_split, options
from test_prompts import load, write
from tiny_run import TINY, refusal

from rankdistill.errors import UserError
from rankdistill.prompts import prompt_id
from rankdistill.prompts.demands import Demand, Wordings, kinds
from rankdistill.prompts.instructions import with_demands

SPLITS = ("train", "validation", "heldout")


def asked_for(prompts: list[Any]) -> Counter[str]:
    return Counter(one.side for prompt in prompts for one in demands(prompt))


def test_the_draw_is_that_of_its_seed():
    assert with_demands(everyday(), options(seed=1)) == drawn(1)
    assert drawn(0) != drawn(1)
    assert [p["cluster"] for p in drawn(0) if p["split"] == "train"] == [
        p["cluster"] for p in drawn(1) if p["split"] == "train"
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("split", SPLITS)
def test_every_side_is_asked_for_equally_often(seed, split):
    asked = asked_for(of_split(drawn(seed), split))
    for names in (set(SHIPPED["kinds"]), set(SHIPPED["kept_out"])):
        sides = [asked[side.name] for name in names for side in kinds()[name].sides]
        assert max(sides) - min(sides) <= 1
        assert min(sides) >= (7 if split == "heldout" or names == set(SHIPPED["kinds"]) else 0)


@pytest.mark.parametrize("seed", range(3))
def test_prompts_have_one_two_or_four_demands_in_turn(seed):
    for split in ("train", "validation"):
        numbers = [len(demands(prompt)) for prompt in of_split(drawn(seed), split)]
        for at in range(0, len(numbers) - 4, 5):
            assert sorted(numbers[at : at + 5]) == [1, 1, 2, 2, 4]
    # 113 held-out requests: 2 of 5 with two demands, 1 of 5 with four; 0.4 have a kept-out kind
    # and 0.25 none.
    counts = Counter(len(demands(prompt)) for prompt in of_split(drawn(seed), "heldout"))
    base = len({prompt["cluster"] for prompt in of_split(drawn(seed), "heldout")})
    assert base == 113 and counts[0] == 28
    assert sum(counts.values()) == base + 45 + 28
    assert counts[4] in (22, 23) and counts[2] in (45, 46)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_shares_are_of_the_held_out_requests_and_spread_over_them(share):
    made = with_demands(everyday(), options(kept_out_share=share, plain_share=share))
    heldout = of_split(made, "heldout")
    plain = [i for i, prompt in enumerate(heldout) if not demands(prompt)]
    assert len(plain) == int(113 * share)
    assert len(heldout) == 113 + 2 * int(113 * share)
    first_half = sum(i < len(heldout) / 2 for i in plain)
    assert abs(first_half - len(plain) / 2) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_excluded_sides_never_meet_and_no_kind_stands_twice(seed):
    every = options(
        kinds=[kind.name for kind in KINDS], kept_out=[], demands_per_prompt=[4], seed=seed
    )
    sides = {side.name: side for kind in KINDS for side in kind.sides}
    for prompt in with_demands(everyday(), every):
        names = [one.side for one in demands(prompt)]
        asked = [one.kind for one in demands(prompt)]
        assert len(set(asked)) == len(asked)
        assert not any(b in sides[a].excludes for a in names for b in names)


def is_of(one: Demand, wordings: Wordings) -> bool:
    """Whether a demand has one of the wordings; names and words of arguments may be anything."""
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in wordings.texts]
    return any(re.fullmatch(pattern, one.text) for pattern in patterns)


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_prompts_have_wordings_and_arguments_of_their_own(split):
    sides = {side.name: side for kind in KINDS for side in kind.sides}
    texts: dict[str, set[str]] = {}
    for prompt in of_split(drawn(0), split):
        for one in demands(prompt):
            own, other = sides[one.side].known, sides[one.side].held_out
            if split == "heldout":
                own, other = other, own
            assert is_of(one, own) and not is_of(one, other)
            assert one.arguments in own.arguments
            if one.kind in ("words", "keywords", "ending", "opening"):
                assert one.arguments not in other.arguments
            assert one.text in prompt["messages"][-1]["content"]
            texts.setdefault(one.side, set()).add(one.text)
    # The least asked side of the shipped draw has seven prompts in a split.
    assert all(len(of) >= 2 for of in texts.values())


@pytest.mark.parametrize("seed", range(3))
def test_kept_out_kinds_and_plain_prompts_are_held_out_alone(seed):
    kept_out = set(SHIPPED["kept_out"])
    for split in SPLITS:
        asked = [{one.kind for one in demands(p)} for p in of_split(drawn(seed), split)]
        if split == "heldout":
            assert set.union(*asked) == set(SHIPPED["kinds"]) | kept_out
            assert all(len(of) == 1 for of in asked if of & kept_out)
        else:
            assert set.union(*asked) == set(SHIPPED["kinds"]) and all(asked)


def test_what_a_prompt_is_made_of():
    base = {prompt["prompt_id"]: prompt for prompt in everyday()}
    splits: dict[str, set[str]] = {}
    for prompt in drawn(0):
        columns = json.loads(prompt["columns"])
        own = base[prompt["cluster"]]
        texts = [one.text for one in demands(prompt)]
        asked = own["messages"][-1]["content"]
        assert columns["base"] == asked
        assert prompt["messages"] == [{"role": "user", "content": " ".join([asked, *texts])}]
        assert prompt["prompt_id"] == prompt_id(prompt["messages"])
        assert columns["instruction_id_list"] == [one.rule for one in demands(prompt)]
        assert columns["kwargs"] == [one.arguments for one in demands(prompt)]
        assert prompt["split"] == own["split"]
        splits.setdefault(prompt["cluster"], set()).add(prompt["split"])
        if not texts:
            assert prompt["messages"] == own["messages"]
    assert splits.keys() == base.keys() and all(len(of) == 1 for of in splits.values())
    assert len({prompt["prompt_id"] for prompt in drawn(0)}) == len(drawn(0))


def test_columns_cluster_and_earlier_turns_of_an_own_prompt_stay():
    before = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]
    own = {
        "prompt_id": "a", "split": "train", "messages": before, "cluster": "c",
        "columns": json.dumps({"source": "me"}),
    }  # fmt: skip
    [made] = with_demands([own], options())  # type: ignore[list-item]
    assert made["cluster"] == "c" and json.loads(made["columns"])["source"] == "me"
    assert made["messages"][0] == before[0]
    assert made["messages"][1]["content"].startswith("Hi? ")
    assert before[1]["content"] == "Hi?"


def test_equal_values_of_a_column_share_a_split_and_a_cluster(tokenizer, tmp_path):
    rows = [{"prompt": f"Prompt {i}", "topic": i % 8} for i in range(64)]
    prompts, _ = load(write(tmp_path, rows), tokenizer, split_by="topic")
    assert len(prompts) == 64 and {p["split"] for p in prompts} == set(SPLITS)
    for topic in range(8):
        own = {f"Prompt {i}" for i in range(64) if i % 8 == topic}
        of = [p for p in prompts if p["messages"][0]["content"] in own]
        assert len({p["split"] for p in of}) == len({p["cluster"] for p in of}) == 1
    assert len({p["cluster"] for p in prompts}) == 8
    # The value alone decides, whatever else is there.
    [first, *_], _ = load(write(tmp_path, [{"prompt": "New", "topic": 3}]), tokenizer,
                          split_by="topic")  # fmt: skip
    assert first["cluster"] in {p["cluster"] for p in prompts}
    assert first["split"] in {p["split"] for p in prompts if p["cluster"] == first["cluster"]}


def test_without_it_the_split_is_drawn_by_the_prompt_itself(tokenizer, tmp_path):
    rows = [{"prompt": f"Prompt {i}", "topic": i % 8} for i in range(64)]
    prompts, _ = load(write(tmp_path, rows), tokenizer)
    for prompt in prompts:
        # As before there was `split_by`: the first 8 bytes of a hash as a share of all.
        digest = hashlib.sha256(f"0 {prompt['prompt_id']}".encode()).hexdigest()
        draw = int(digest[:16], 16) / 2**64
        train, validation = SHARES["train"], SHARES["train"] + SHARES["validation"]
        split = "train" if draw < train else "validation" if draw < validation else "heldout"
        assert prompt["split"] == split and "cluster" not in prompt


def test_a_missing_column_is_told_with_its_line(tokenizer, tmp_path):
    rows = [{"prompt": "A", "topic": 1}, {"prompt": "B", "topics": 1}]
    with pytest.raises(UserError, match=r"split_by names 'topic'.*line 2 .*'topics'"):
        load(write(tmp_path, rows), tokenizer, split_by="topic")


def test_prompts_with_demands_keep_the_cluster_of_the_column(tokenizer, tmp_path):
    rows = [{"prompt": f"Prompt {i}", "topic": i % 4} for i in range(32)]
    prompts, _ = load(write(tmp_path, rows), tokenizer, split_by="topic")
    made = with_demands(prompts, options())
    assert {p["cluster"] for p in made} == {p["cluster"] for p in prompts}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kinds": ["wrods"]}, r"instructions\.kinds names 'wrods'.*did you mean 'words'"),
        ({"kept_out": ["opning"]}, r"instructions\.kept_out names 'opning'.*'opening'"),
        ({"kinds": ["words"], "kept_out": ["words"]}, r"kept_out leaves no kind to train on"),
        ({"kinds": []}, r"leaves no kind to train on"),
        ({"demands_per_prompt": []}, r"demands_per_prompt must be numbers of at least 1"),
        ({"demands_per_prompt": [1, 0]}, r"demands_per_prompt must be numbers of at least 1"),
        (
            {"demands_per_prompt": [3], "kinds": ["words", "title"]},
            r"3 demands in one .* are 2 kinds",
        ),
        ({"kept_out_share": 1.1}, r"kept_out_share is 1\.1; it must be in \[0, 1\]"),
        ({"plain_share": -0.1}, r"plain_share is -0\.1; it must be in \[0, 1\]"),
    ],
)
def test_bad_options_get_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        options(**changes)


COMMAND = [
    "recipe=rrhf", *TINY, "score=verifier", "eval.quick.sharpening_control=false",
    "eval.verified.prompted=false", "eval.verified.best_of=[]", "eval.verified.greedy=false",
]  # fmt: skip


def test_a_kept_out_kind_that_is_the_only_one(monkeypatch, capsys, tmp_path, teacher):
    said = refusal(
        monkeypatch, capsys, tmp_path, *COMMAND, "prompts=instructions", f"teacher.path={teacher}",
        "prompts.instructions.kinds=[words]", "prompts.instructions.kept_out=[words]",
    )  # fmt: skip
    assert "kept_out leaves no kind to train on" in said


@pytest.mark.parametrize(
    ("keep", "arguments", "sentence"),
    [
        ("[instruction_id_list,kwargs]", ["score.rule=ifeval"], "no instruction 'form:bolt'"),
        ("[kwargs]", ["score.rule=ifeval"], "take prompts=instructions"),
        ("[instruction_id_list]", ["score.rule=ifeval"], "the column 'kwargs'"),
        ("[]", ["score.rule=number"], "prompts.keep"),
        ("[]", ["score.rule=regex", "score.pattern=no model says so"], "9 all_tied"),
    ],
)
def test_own_prompts_that_cannot_be_verified(
    monkeypatch, capsys, tmp_path, teacher, keep, arguments, sentence
):
    rows = [
        {"prompt": f"Count to {i}.", "instruction_id_list": ["form:bolt"], "kwargs": [{}]}
        for i in range(40)
    ]
    said = refusal(
        monkeypatch, capsys, tmp_path, *COMMAND, f"teacher.path={teacher}", "prompts=starter",
        f"prompts.path={write(tmp_path, rows)}", f"prompts.keep={keep}", *arguments,
    )  # fmt: skip
    assert sentence in said


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_of_every_demand_stand_in_train(seed):
    made = with_demands(everyday(), options(both_sides=True, seed=seed))
    train = of_split(made, "train")
    requests = [p for p in everyday() if p["split"] == "train"]
    assert len(train) == 2 * len(requests)
    for one, other in zip(train[::2], train[1::2], strict=True):
        assert one["cluster"] == other["cluster"] and one["prompt_id"] != other["prompt_id"]
        for demand, opposite in zip(demands(one), demands(other), strict=True):
            assert demand.kind == opposite.kind and demand.side != opposite.side
    sides = {side.name: side for kind in KINDS for side in kind.sides}
    for prompt in train:
        names = [demand.side for demand in demands(prompt)]
        assert not any(set(names) & sides[name].excludes for name in names)
    asked = Counter(demand.side for prompt in train for demand in demands(prompt))
    assert max(asked.values()) - min(asked.values()) <= 1
    # Validation and held-out prompts are those of a draw without it.
    single = with_demands(everyday(), options(seed=seed))
    for split in ("validation", "heldout"):
        assert of_split(made, split) == of_split(single, split)
