"""Prompts with demands: what is drawn, what may meet, and what no answer gets for nothing."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from test_pipeline import refusal
from test_prompts import SHARES, load, write
from tiny_run import TINY

from rankdistill.errors import UserError
from rankdistill.evaluate.verified import demand_rows, subset, tally
from rankdistill.prompts import prompt_id
from rankdistill.prompts.demands import Demand, Kind, Wordings, demand, kinds
from rankdistill.prompts.instructions import InstructionOptions, demands_of, with_demands
from rankdistill.score.verifier.instructions import follows

ROOT = Path(__file__).parents[1]
SHIPPED = OmegaConf.to_container(
    OmegaConf.load(ROOT / "conf/prompts/instructions.yaml").instructions, resolve=False
)
IFEVAL = ROOT.parent / "shared/data/ifeval/input_data.jsonl"
SPLITS = ("train", "validation", "heldout")
KINDS = list(kinds().values())
# langdetect tells the language that IFEval's rules of letter case ask for as well.
CHECKABLE = [kind for kind in KINDS if kind.name != "case" or find_spec("langdetect")]


def options(**changes: Any) -> InstructionOptions:
    return InstructionOptions(**{**SHIPPED, "seed": 0, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def everyday(tokenizer) -> list[Any]:
    return load("everyday", tokenizer)[0]


@pytest.fixture(scope="module")
def drawn(everyday) -> dict[int, list[Any]]:
    """The shipped draw of three seeds."""
    return {seed: with_demands(everyday, options(seed=seed)) for seed in range(3)}


def demands(prompt: Any) -> list[Demand]:
    return demands_of(json.loads(prompt["columns"]))


def of_split(prompts: list[Any], split: str) -> list[Any]:
    return [prompt for prompt in prompts if prompt["split"] == split]


def asked_for(prompts: list[Any]) -> Counter[str]:
    return Counter(one.side for prompt in prompts for one in demands(prompt))


def pairs(kind: Kind) -> Iterator[Demand]:
    """Every demand of a kind with each of its arguments and of the opposite's, in one wording."""
    for held_out in (False, True):
        places = max(len((s.held_out if held_out else s.known).arguments) for s in kind.sides)
        for side in kind.sides:
            for place in range(places):
                yield demand(kind, side, held_out, 0, place)


# ------------------------------------------------------------------------------ the demands

SEVEN = "Tea is a hot drink of leaves."
FORTY = " ".join(["word"] * 40) + "."
ANSWERS = {
    "at_most_words": SEVEN, "at_least_words": FORTY,
    "one_sentence": SEVEN, "three_sentences": "Tea is hot. Milk is not. Cake is sweet.",
    "no_comma": SEVEN, "two_commas": "Tea, milk, cake, and bread.",
    "one_paragraph": SEVEN, "two_paragraphs": "Tea is hot.\n\nMilk is not.",
    "title": f"<<Tea>>\n{SEVEN}", "no_title": SEVEN,
    "postscript": f"{SEVEN}\nP.S. Milk is not.", "no_postscript": SEVEN,
    "bullets": "* Tea\n* Milk\n* Cake", "no_bullets": SEVEN,
    "bold": "**Tea** is hot.", "no_bold": SEVEN,
    "keywords": "It has {words}.", "no_keywords": SEVEN,
    "ending": "Tea is hot. {phrase}", "no_ending": SEVEN,
    "opening": "{phrase} tea is hot.", "no_opening": SEVEN,
    "digits": "Take 2 cups and 3 spoons.", "no_digits": SEVEN,
    "placeholders": "Dear [name], tea is hot.", "no_placeholders": SEVEN,
    "capitals": "TEA IS A HOT DRINK THAT IS MADE OF LEAVES.",
    "lowercase": "tea is a hot drink that is made of leaves.",
    "quotation": f'"{SEVEN}"', "no_quotation": SEVEN,
}  # fmt: skip
"""One answer a side, written by hand; the words and phrases that are asked for are put in."""


def answer_to(one: Demand) -> str:
    words = [w for value in one.arguments.values() if isinstance(value, list) for w in value]
    phrase = one.arguments.get("phrase") or one.arguments.get("end_phrase") or ""
    return ANSWERS[one.side].format(words=" and ".join(words), phrase=phrase)


@pytest.mark.parametrize("kind", CHECKABLE, ids=lambda kind: kind.name)
def test_an_answer_follows_its_demand_and_not_the_opposite(kind):
    for one in pairs(kind):
        text = answer_to(one)
        assert follows(text, one.rule, one.arguments), one
        assert not follows(text, one.opposite_rule, one.opposite_arguments), one


PIECES = (
    "tea", "Milk ", " window small ", " people ", " water great ", "So it goes.", "That is all", "2",
    "1,000", " 12 ", ", ", "tea, milk, cake", ". ", "! ", "...", "\n", "\n\n", "\r", "\u2028", " ",
    "* ", "\n* tea", "\n- milk", "\n1. ", "**", "**tea**", "<<", ">>", "<<Tea>>\n", "P.S. ",
    "\nP.S. tea", "p.s", "PS: ", "[", "]", "[name]", '"', "\u201c", "My answer:", "In my view,",
    "\t", "\u3002", "TEA AND MILK", "this is in small letters", FORTY, "word " * 10,
)  # fmt: skip


def any_texts(count: int) -> list[str]:
    rng = random.Random(0)
    texts = ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(count)]
    quoted = [f'"{text}"' for text in texts[::5]]
    return [*texts, *quoted, *map(str.upper, texts[::5]), *map(str.lower, texts[::5]), "", " \n"]


@pytest.mark.parametrize("kind", CHECKABLE, ids=lambda kind: kind.name)
def test_no_text_follows_a_side_and_its_opposite(kind):
    followed: Counter[str] = Counter()
    for one in pairs(kind):
        for text in [*ANSWERS.values(), *any_texts(200)]:
            own = follows(text, one.rule, one.arguments)
            assert isinstance(own, bool)
            assert not (own and follows(text, one.opposite_rule, one.opposite_arguments)), text
            followed[one.side] += own
    assert all(followed[side.name] for side in kind.sides), "the texts say nothing of a side"


def test_a_part_of_a_word_meets_both_sides_of_keywords():
    # IFEval looks for keywords in any place, and for forbidden words as whole ones.
    one = next(pairs(kinds()["keywords"]))
    text = "windows and smaller"
    assert one.arguments == {"keywords": ["window", "small"]}
    assert follows(text, one.rule, one.arguments)
    assert follows(text, one.opposite_rule, one.opposite_arguments)


@pytest.mark.parametrize("held_out", [False, True])
def test_no_number_of_words_is_few_and_many(held_out):
    few, many = kinds()["words"].sides
    for place in range(2):
        at_most = demand(kinds()["words"], few, held_out, 0, place).arguments["num_words"]
        at_least = demand(kinds()["words"], many, held_out, 0, place).arguments["num_words"]
        assert at_most <= at_least


def test_a_demand_says_the_number_that_its_rule_allows():
    one = demand(kinds()["words"], kinds()["words"].sides[0], False, 0, 0)
    assert one.text == "Answer in at most 8 words."
    assert follows("one two three four five six seven eight", one.rule, one.arguments)
    assert not follows("one two three four five six seven eight nine", one.rule, one.arguments)
    assert one.opposite_arguments == {"relation": "at least", "num_words": 25}


def test_excluded_sides_exist_and_wordings_and_arguments_are_apart():
    names = [side.name for kind in KINDS for side in kind.sides]
    assert len(set(names)) == len(names)
    for kind in KINDS:
        for side in kind.sides:
            assert side.excludes <= set(names), side.name
            assert not set(side.known.texts) & set(side.held_out.texts), side.name
            for wordings in (side.known, side.held_out):
                assert len(set(wordings.texts)) == len(wordings.texts) >= 2
        assert kind.opposite(kind.sides[0]) is kind.sides[1]
        assert kind.opposite(kind.sides[1]) is kind.sides[0]


# --------------------------------------------------------------------------------- the draw


def test_the_draw_is_that_of_its_seed(everyday, drawn):
    assert with_demands(everyday, options(seed=1)) == drawn[1]
    assert drawn[0] != drawn[1]
    assert [p["cluster"] for p in drawn[0] if p["split"] == "train"] == [
        p["cluster"] for p in drawn[1] if p["split"] == "train"
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("split", SPLITS)
def test_every_side_is_asked_for_equally_often(drawn, seed, split):
    asked = asked_for(of_split(drawn[seed], split))
    for names in (set(SHIPPED["kinds"]), set(SHIPPED["kept_out"])):
        sides = [asked[side.name] for name in names for side in kinds()[name].sides]
        assert max(sides) - min(sides) <= 1
        assert min(sides) >= (7 if split == "heldout" or names == set(SHIPPED["kinds"]) else 0)


@pytest.mark.parametrize("seed", range(3))
def test_prompts_have_one_two_or_four_demands_in_turn(drawn, seed):
    for split in ("train", "validation"):
        numbers = [len(demands(prompt)) for prompt in of_split(drawn[seed], split)]
        for at in range(0, len(numbers) - 4, 5):
            assert sorted(numbers[at : at + 5]) == [1, 1, 2, 2, 4]
    # 113 held-out requests: 2 of 5 with two demands, 1 of 5 with four; 0.4 have a kept-out kind
    # and 0.25 none.
    counts = Counter(len(demands(prompt)) for prompt in of_split(drawn[seed], "heldout"))
    base = len({prompt["cluster"] for prompt in of_split(drawn[seed], "heldout")})
    assert base == 113 and counts[0] == 28
    assert sum(counts.values()) == base + 45 + 28
    assert counts[4] in (22, 23) and counts[2] in (45, 46)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_shares_are_of_the_held_out_requests_and_spread_over_them(everyday, share):
    made = with_demands(everyday, options(kept_out_share=share, plain_share=share))
    heldout = of_split(made, "heldout")
    plain = [i for i, prompt in enumerate(heldout) if not demands(prompt)]
    assert len(plain) == int(113 * share)
    assert len(heldout) == 113 + 2 * int(113 * share)
    first_half = sum(i < len(heldout) / 2 for i in plain)
    assert abs(first_half - len(plain) / 2) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_excluded_sides_never_meet_and_no_kind_stands_twice(everyday, seed):
    every = options(
        kinds=[kind.name for kind in KINDS], kept_out=[], demands_per_prompt=[4], seed=seed
    )
    sides = {side.name: side for kind in KINDS for side in kind.sides}
    for prompt in with_demands(everyday, every):
        names = [one.side for one in demands(prompt)]
        asked = [one.kind for one in demands(prompt)]
        assert len(set(asked)) == len(asked)
        assert not any(b in sides[a].excludes for a in names for b in names)


def is_of(one: Demand, wordings: Wordings) -> bool:
    """Whether a demand has one of the wordings; names and words of arguments may be anything."""
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in wordings.texts]
    return any(re.fullmatch(pattern, one.text) for pattern in patterns)


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_prompts_have_wordings_and_arguments_of_their_own(drawn, split):
    sides = {side.name: side for kind in KINDS for side in kind.sides}
    texts: dict[str, set[str]] = {}
    for prompt in of_split(drawn[0], split):
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
def test_kept_out_kinds_and_plain_prompts_are_held_out_alone(drawn, seed):
    kept_out = set(SHIPPED["kept_out"])
    for split in SPLITS:
        asked = [{one.kind for one in demands(p)} for p in of_split(drawn[seed], split)]
        if split == "heldout":
            assert set.union(*asked) == set(SHIPPED["kinds"]) | kept_out
            assert all(len(of) == 1 for of in asked if of & kept_out)
        else:
            assert set.union(*asked) == set(SHIPPED["kinds"]) and all(asked)


def test_what_a_prompt_is_made_of(everyday, drawn):
    base = {prompt["prompt_id"]: prompt for prompt in everyday}
    splits: dict[str, set[str]] = {}
    for prompt in drawn[0]:
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
    assert len({prompt["prompt_id"] for prompt in drawn[0]}) == len(drawn[0])


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


# ------------------------------------------------------------------- nothing for nothing

CONSTANT = {
    "always a title and a postscript": "<<Tea>>\nTea is hot.\nP.S. Milk is not.",
    "always five words": "Tea is a hot drink",
    "always sixty words": " ".join(["word"] * 60) + ".",
    "always a list with all marks": "<<Tea>>\n* **Tea** is hot.\n* Milk is not.\nP.S. So it goes.",
    "always nothing": "",
    "always everything": (
        "<<Tea>>\n\nMy answer: tea, milk, and cake. They are good. Are they not?\n\n* **Tea** 1\n"
        "* [name] 2\n\nwindow small paper often garden today table simple light people morning "
        "always street good water great bridge early bottle useful summer quiet. I hope this helps "
        "you. Thank you for asking me. And that is that. Good luck with it. That is all.\n"
        "P.S. So it goes."
    ),
}


@pytest.mark.parametrize("text", CONSTANT.values(), ids=CONSTANT.keys())
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_an_answer_that_is_always_the_same_gets_half_at_most(drawn, split, text):
    prompts = of_split(drawn[0], split)
    response = {"text": text, "token_ids": [2], "score": 0.0}
    groups = [{**prompt, "responses": [response]} for prompt in prompts]
    rows = demand_rows(groups, "same", SHIPPED["kinds"], "ifeval")
    asked = asked_for(prompts)
    for name, of in (("trained", SHIPPED["kinds"]), ("kept_out", SHIPPED["kept_out"])):
        table = tally(subset(rows, name))
        if table is None:
            assert (split, name) == ("train", "kept_out")
            continue
        found = table.mean(np.ones(len(table.clusters)))
        # All of the side that is asked for more often, by one: 17 of 33 at worst, of three kinds
        # with 15 demands 8 of 15.
        sides = [[asked[side.name] for side in kinds()[kind].sides] for kind in of]
        half = np.mean([max(both) / sum(both) for both in sides])
        assert found <= half + 1e-12
        assert 0.5 <= half <= 0.5 + 1 / 30 + 1e-12
    assert text or not sum(row.followed for row in rows)


# ------------------------------------------------------------------- nothing of IFEval's


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def grams(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


@pytest.fixture(scope="module")
def ifeval() -> list[Any]:
    if not IFEVAL.parent.exists():
        pytest.skip("IFEval's data is not beside the repository")
    rows = [json.loads(line) for line in IFEVAL.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 541
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_no_prompt_has_eight_words_in_a_row_of_ifeval(everyday, ifeval, seed):
    theirs = set().union(*(grams(row["prompt"]) for row in ifeval))
    every = options(
        kinds=[kind.name for kind in KINDS], kept_out_share=1.0, plain_share=1.0, seed=seed
    )
    made = with_demands(everyday, every)
    assert len(made) > 700
    for prompt in made:
        own = set().union(*(grams(one.text) for one in demands(prompt)), set())
        text = prompt["messages"][-1]["content"]
        assert not (grams(text) & theirs) - own, text


def test_no_argument_is_one_of_ifevals(ifeval):
    theirs: dict[str, list[dict[str, Any]]] = {}
    for row in ifeval:
        for rule, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            theirs.setdefault(rule, []).append({k: v for k, v in arguments.items() if v})
    common: set[str] = set()
    compared = 0
    for kind in KINDS:
        for one in pairs(kind):
            own = _comparable(one.arguments)
            if not own or one.rule.startswith("form:"):
                continue
            compared += 1
            assert own not in [_comparable(given) for given in theirs[one.rule]], one
            for value in one.arguments.values():
                if isinstance(value, list):
                    used = {
                        w.lower() for given in theirs[one.rule] for w in sum(given.values(), [])
                    }
                    common |= used & set(value)
    assert compared > 20
    # Two everyday words that are single keywords of IFEval's, beside others.
    assert common <= {"good", "people"}


def _comparable(arguments: Any) -> frozenset[Any]:
    """Lower case; a list of words as a set; a number with its relation."""
    return frozenset(
        (key, frozenset(word.lower() for word in value))
        if isinstance(value, list)
        else (key, value.strip().lower() if isinstance(value, str) else value)
        for key, value in arguments.items()
    )


# -------------------------------------------------------------------------------- split_by


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


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kinds": ["wrods"]}, r"instructions\.kinds names 'wrods'.*did you mean 'words'"),
        ({"kept_out": ["opning"]}, r"instructions\.kept_out names 'opning'.*'opening'"),
        ({"kinds": ["words"], "kept_out": ["words"]}, r"kept_out leaves no kind to train on"),
        ({"kinds": []}, r"leaves no kind to train on"),
        ({"demands_per_prompt": []}, r"demands_per_prompt must be numbers of at least 1"),
        ({"demands_per_prompt": [1, 0]}, r"demands_per_prompt must be numbers of at least 1"),
        ({"demands_per_prompt": [11]}, r"11 demands in one prompt, and there are 10 kinds"),
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
        ("[kwargs]", ["score.rule=ifeval"], "the column 'instruction_id_list'"),
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
