"""Generated word problems: their answers, their splits, and what is made of answers to them."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
from tiny_models import build_tokenizer
from tiny_run import composed

from rankdistill.errors import UserError
from rankdistill.prompts import load_prompts, source_identity
from rankdistill.prompts.problems import REQUEST, STORIES, problems
from rankdistill.score.verifier.answers import final_number, number
from rankdistill.stages import settings

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
SHARES = {"train": 0.66, "validation": 0.14, "heldout": 0.2}


@cache
def rows() -> list[dict[str, str]]:
    return problems()


def value(node: Any) -> int:
    """What an expression comes to, read by Python's own parser."""
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](value(node.left), value(node.right))
    return int(node.value)


def of_story(row: dict[str, str]) -> int:
    """The answer from the numbers and the words of the story alone."""
    told = [int(digits) for digits in re.findall(r"\d+", row["prompt"].removesuffix(REQUEST))]
    first, second = told
    if re.search(r" in each\.| costs ", row["prompt"]):
        return first * second
    return first - second if " eats " in row["prompt"] else first + second


def calculation(row: dict[str, str]) -> str:
    return row["response"].partition(" = ")[0]


def test_a_seed_draws_the_same_problems_and_another_others():
    assert problems(1) == problems(1) != problems(2)
    assert source_identity("problems") == source_identity("problems")


def test_every_answer_is_right():
    for row in rows():
        worked = value(ast.parse(calculation(row), mode="eval").body)
        assert worked == int(row["answer"]) == of_story(row) > 0
        assert row["response"] == f"{calculation(row)} = {row['answer']}\n#### {row['answer']}"
        assert final_number(row["response"]) == int(row["answer"])


def test_every_kind_has_stories_and_no_calculation_stands_twice():
    counts = Counter(row["kind"] for row in rows())
    assert set(counts) == set(STORIES) and min(counts.values()) >= 25
    # In whichever order its numbers are: 3 + 4 is 4 + 3, and 4 - 3 is no sum.
    same = {(*sorted(map(int, re.findall(r"\d+", calculation(row)))), sign(row)) for row in rows()}
    assert len(same) == len(rows()) == 190 + 102 + 78
    turned = [row for row in rows() if sign(row) != "-" and value_of(row)[0] > value_of(row)[1]]
    assert 60 < len(turned) < 200


def sign(row: dict[str, str]) -> str:
    return calculation(row).split()[1]


def value_of(row: dict[str, str]) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", calculation(row))]


def test_no_problem_stands_in_two_splits():
    prompts, counts = load_prompts(
        "problems", build_tokenizer(), max_prompt_tokens=512, splits=SHARES, limit={}, seed=0,
        keep=["answer"],
    )  # fmt: skip
    assert counts["read"] == len(rows()) and counts["duplicates"] == counts["too_long"] == 0
    splits = [{p["response"] for p in prompts if p["split"] == split} for split in SHARES]
    assert all(splits) and sum(map(len, splits)) == len(set.union(*splits)) == len(rows())
    assert set.union(*splits) == {row["response"] for row in rows()}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("5 + 7 = 12\n#### 12", 1.0),
        ("She has 12 apples.", 1.0),
        ("#### 12 apples, which is 5 and 7 together", 1.0),
        ("The answer is twelve.", 0.0),
        ("", 0.0),
        ("5 + 7 = 12, so there are 12 apples in 2 bags", 0.0),
        ("#### 13, not 12", 0.0),
        ("#### ", 0.0),
        ("12.0", 1.0),
        ("-12", 0.0),
        ("112", 0.0),
    ],
)
def test_the_rule_reads_any_form(text, right):
    assert number("answer", None)(text, {"answer": "12"}) == right


def test_the_recipe_reads_the_number_and_tells_its_form_apart():
    built = settings.build(composed("recipe=problems"))
    assert built.verified is not None and built.verified.form is not None
    assert all(re.search(built.verified.form, row["response"]) for row in rows())
    for other in ("She has 12 apples.", "#### ", "####\n12", "#### apples: 12"):
        assert not re.search(built.verified.form, other)
    assert built.rounds == 1
    gold = settings.build(composed("recipe=problems_gold"))
    assert gold.rounds == 0 and gold.prompts == built.prompts


def test_a_vote_needs_a_rule_that_reads_numbers():
    for given in (["score.rule=regex"], ["score=likelihood"], ["score@eval.judge=demands"]):
        with pytest.raises(UserError, match=r"eval\.verified\.majority counts the numbers"):
            settings.build(composed("recipe=problems", "prompts=instructions", *given))
    unasked = settings.build(
        composed("recipe=problems", "score.rule=regex", "eval.verified.majority=null")
    )
    assert unasked.verified is not None and unasked.verified.majority is None
