"""Checklists: weights, missing votes, rules in place of the judge, columns that are none."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, shown
from judge_data import NOBODY, group, judged, scorer, values

from rankdistill.errors import UserError
from rankdistill.score.judge.rubric import checklist, decided_by_rules

ITEMS = [
    {"item": "says a", "weight": 3},
    "says b",
    {"item": "shouts", "weight": -2},
    {"item": "has a digit", "weight": 4, "rule": "regex", "expects": "\\d"},
]


def asked(prompt_id: str, *texts: str, items: Any = ITEMS) -> dict[str, Any]:
    return {**group(prompt_id, *texts), "columns": json.dumps({"rubric": items})}


def by_item(question: str) -> str:
    response, item = shown(question, "RESPONSE"), shown(question, "ITEM")
    met = {"says a": "a" in response, "says b": "b" in response, "shouts": "!" in response}
    return "yes" if met[item] else "no"


def made(**changes: Any) -> Any:
    return scorer("judge", **{**RUBRIC, **changes})


RUBRIC = {"_target_": "rankdistill.score.judge.Rubric", "column": "rubric"}


def test_the_share_of_the_weight_that_is_met():
    counts: Counter[str] = Counter()
    with FakeEndpoint(by_item) as server:
        judge = made(endpoint=server.url, model="judge-1")
        rows = judged(judge, [asked("p", "a", "ab7", "!", "b! 1", "x")], counts=counts)
        assert len(server.requests) == 15  # three items of five responses: a rule has the fourth
    assert values(rows, "rubric") == [[3 / 8, 1.0, -2 / 8, 3 / 8, 0.0]]
    assert counts["calls"] == 15 and "missing_votes" not in counts
    assert judge.name == "rubric" and judge.identity["column"] == "rubric" and not judge.relative


def test_items_without_a_vote_count_on_neither_side_and_are_told():
    counts: Counter[str] = Counter()
    with FakeEndpoint(
        lambda q: "perhaps" if shown(q, "ITEM") == "says a" else by_item(q)
    ) as server:
        judge = made(endpoint=server.url, model="judge-1", retries=0)
        rows = judged(judge, [asked("p", "ab", "b3")], counts=counts)
    assert values(rows, "rubric") == [[1 / 5, 1.0]]
    assert counts["missing_votes"] == 2
    plan = checklist(asked("p", "a", items=["says a"]), judge._brief(), "rubric", {})  # type: ignore
    next(plan)
    with pytest.raises(StopIteration) as end:
        plan.send([None])
    assert math.isnan(end.value.value.values[0])  # nothing is guessed


def test_a_rule_is_asked_once_about_all_its_items():
    hard = {"item": "42", "rule": "number", "expects": "42"}
    groups: Any = [asked("p", "so 42", "43", items=[hard]), asked("q", "none", items=[hard, "x"])]
    assert decided_by_rules(groups, "rubric", NOBODY) == {("p", 0): [1.0, 0.0], ("q", 0): [0.0]}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"rubrics": []}, r"needs the column 'rubric' of the prompts \(kept: rubrics\)"),
        ({"rubric": "be brief"}, "is no checklist"),
        ({"rubric": []}, "is no checklist"),
        ({"rubric": [{"item": "x", "weight": -1}]}, "a weight above 0"),
        ({"rubric": [{"item": "x", "weight": 0}]}, "a number other than 0"),
        ({"rubric": [{"item": "x", "weight": True}]}, "a number other than 0"),
        ({"rubric": [{"item": "x", "wieght": 1}]}, "a mapping of item, weight"),
        ({"rubric": [{"item": "x", "rule": "os:system"}]}, "whose rule one of number, math"),
        ({"rubric": [7]}, "give a text"),
    ],
)
def test_what_is_no_checklist_is_refused_before_anything_is_judged(columns, told):
    judge = made()
    judge.check_columns([{"rubric": ITEMS}])
    with pytest.raises(UserError, match=told):
        judge.check_columns([{"rubric": ITEMS}, columns])


def test_it_has_one_mode():
    with pytest.raises(UserError, match="leave it at pointwise"):
        made(mode="pairwise")
