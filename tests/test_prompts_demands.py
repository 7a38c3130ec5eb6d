"""Demands: a program can check each, no answer meets two opposites, none is IFEval's."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from demand_prompts import KINDS, ROOT, SHIPPED, demands, drawn, everyday, of_split, options, pairs

from rankdistill.evaluate.verified import demand_rows, subset, tally
from rankdistill.prompts.demands import Demand, demand, kinds
from rankdistill.prompts.instructions import with_demands
from rankdistill.score.verifier.instructions import follows

IFEVAL = ROOT.parent / "shared/data/ifeval/input_data.jsonl"
# langdetect tells the language that IFEval's rules of letter case ask for as well.
CHECKABLE = [kind for kind in KINDS if kind.name != "case" or find_spec("langdetect")]

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
"""One answer per side, written by hand; the words and phrases that are asked for are put in."""


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
    "tea", "Milk ", " window small ", " people ", " water great ", "So it goes.", "That is all",
    "2", "1,000", " 12 ", ", ", "tea, milk, cake", ". ", "! ", "...", "\n", "\n\n", "\r", "\u2028",
    " ", "* ", "\n* tea", "\n- milk", "\n1. ", "**", "**tea**", "<<", ">>", "<<Tea>>\n", "P.S. ",
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


def test_a_part_of_a_word_meets_one_side_of_keywords():
    # IFEval looks for keywords in any place, and so does our opposite.
    one = next(pairs(kinds()["keywords"]))
    text = " and ".join(f"{word}s" for word in one.arguments["keywords"])
    assert follows(text, one.rule, one.arguments)
    assert not follows(text, one.opposite_rule, one.opposite_arguments)


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
def test_an_answer_that_is_always_the_same_gets_half_at_most(split, text):
    prompts = of_split(drawn(0), split)
    response = {"text": text, "token_ids": [2], "score": 0.0}
    groups = [{**prompt, "responses": [response]} for prompt in prompts]
    rows = demand_rows(groups, "same", SHIPPED["kinds"], "ifeval")
    asked = Counter(one.side for prompt in prompts for one in demands(prompt))
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
def test_no_prompt_has_eight_words_in_a_row_of_ifeval(ifeval, seed):
    theirs = set().union(*(grams(row["prompt"]) for row in ifeval))
    every = options(
        kinds=[kind.name for kind in KINDS], kept_out_share=1.0, plain_share=1.0, seed=seed
    )
    made = with_demands(everyday(), every)
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
    own = [one for kind in KINDS for one in pairs(kind)]
    own = [one for one in own if one.arguments and not one.rule.startswith("form:")]
    assert {one.kind for one in own} == {"words", "keywords", "ending"}
    for one in own:
        assert comparable(one.arguments) not in map(comparable, theirs[one.rule]), one
    single = {word for one in own if one.kind == "keywords" for word in words_in(one.arguments)}
    used = {word for of in theirs.values() for given in of for word in words_in(given)}
    assert len(used) > 100 and single and not single & used


def comparable(arguments: Any) -> frozenset[Any]:
    """Lower case; a list of words as a set; a number with its relation."""
    return frozenset(
        (key, frozenset(words_in({key: value})) if isinstance(value, list) else str(value).lower())
        for key, value in arguments.items()
    )


def words_in(arguments: Any) -> list[str]:
    """The keywords of a rule, in lower case."""
    lists = [value for value in arguments.values() if isinstance(value, list)]
    return [word.lower() for of in lists for word in of]
