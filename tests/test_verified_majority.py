"""The teacher's ways to answer: votes on a final number, and the way that validation chooses."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from verified_rows import group, mean

from rankdistill.errors import UserError
from rankdistill.evaluate.majority import majority_rows, majority_weights
from rankdistill.evaluate.schema import VerifiedOptions
from rankdistill.evaluate.verified import best_of_rows, demand_rows, subset, tally
from rankdistill.models import Rows
from rankdistill.score.verifier.answers import number
from rankdistill.stages.verified import WORKED, Verification

RIGHT = number("answer", None)
FORM = r"#### *-?\d"
OPTIONS: dict[str, Any] = {
    "version": 1, "greedy": True, "prompted": False, "best_of": [], "best_of_prompts": 1,
    "guard_prompts": 1, "form": FORM, "majority": 3,
    "max_batch_tokens": 4096,
}  # fmt: skip


def answered(prompt_id: str, *texts: str) -> Any:
    """Answers to a prompt whose answer is 7, scored by the rule."""
    scores = [RIGHT(text, {"answer": "7"}) for text in texts]
    made = group({"answer": "7"}, *texts, scores=scores, prompt_id=prompt_id)
    return {**made, "prompt_id": prompt_id}


# -------------------------------------------------------------------------------- the votes


@pytest.mark.parametrize(
    ("votes", "weights"),
    [
        ([7, 7, 8], [1, 0, 0]),
        ([8, 7, 7], [0, 1, 0]),
        ([7, 8], [0.5, 0.5]),
        ([8, 7, 8, 9, 7], [0.5, 0.5, 0, 0, 0]),
        ([None, None, 8], [0, 0, 1]),
        ([None, None], [1, 0]),
        ([Fraction(14, 2), 8, 7], [1, 0, 0]),
    ],
)
def test_the_most_frequent_number_is_taken_and_ties_share(votes, weights):
    assert majority_weights(votes) == weights


def test_a_majority_is_right_where_most_answers_agree_on_what_is():
    groups = [
        answered("a", "#### 7", "It is 7.", "#### 8"),  # 7: right, in two forms
        answered("b", "#### 7", "#### 8", "It is 8."),  # 8: wrong
        answered("c", "#### 7", "#### 8", "no idea"),  # a tie
        answered("d", "no", "no idea", "none at all"),  # nobody votes
    ]
    rows = majority_rows(groups, demand_rows(groups, "x", ["number"], "number", FORM), "vote")
    by_prompt = {
        name: mean(tally([r for r in subset(rows, "trained") if r.prompt_id == name]))
        for name in "abcd"
    }
    assert by_prompt == {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.0}
    assert {row.arm for row in rows} == {"vote"}
    # Of all three answers: "#### 7", "It is 7." and "#### 8" are seven words.
    assert {row.tokens for row in rows if row.prompt_id == "a"} == {7}


# --------------------------------------------------------------------------------- the form


def test_the_form_is_told_apart_from_what_is_right():
    groups = [answered("a", "#### 7", "It is 7.", "#### 8", "#### x")]
    rows = demand_rows(groups, "x", ["number"], "number", FORM)
    assert mean(tally(subset(rows, "trained"))) == 2 / 4
    assert mean(tally(subset(rows, "form"))) == 2 / 4
    assert [row.followed for row in subset(rows, "form")] == [1.0, 0.0, 1.0, 0.0]
    assert subset(rows, "kept_out") == []
    plain = demand_rows(groups, "x", ["number"], "number")
    assert plain == subset(rows, "trained")
    # The best of n is the best by the rule alone, whatever form it has.
    assert best_of_rows(rows, "best", 2) == best_of_rows(plain, "best", 2)


def test_what_is_no_pattern_is_refused():
    with pytest.raises(UserError, match=r"eval\.verified\.form '\(' is no regular expression"):
        VerifiedOptions(**{**OPTIONS, "form": "("})
    with pytest.raises(UserError, match=r"set eval\.verified\.greedy=true"):
        VerifiedOptions(**{**OPTIONS, "greedy": False})
    with pytest.raises(UserError, match=r"eval\.verified\.majority"):
        VerifiedOptions(**{**OPTIONS, "majority": 0})


# --------------------------------------------------------------------------------- the ways

NUMBERS = {
    # By split: how many of four answers are right greedily, by majority, after examples.
    "validation": {"greedy": 2, "samples": 3, "examples": 4},
    "heldout": {"greedy": 4, "samples": 2, "examples": 1},
}


class Scripted(Verification):
    """Whose teacher answers as `NUMBERS` says."""

    def _fits(self, model: Any, way: str) -> bool:
        return True

    def _answers(self, model: Any, what: str, *_: Any, **how: Any) -> Rows:
        split = next(name for name in NUMBERS if what.endswith(name))
        [way] = [way for way in NUMBERS[split] if way in what]
        assert (how.get("way") == "examples") == (way == "examples")
        count = how["count"]
        assert count == (3 if way == "samples" else 1)
        right = NUMBERS[split][way]
        groups = [
            answered(f"{split}{n}", *(["#### 7" if n < right else "#### 8"] * count))
            for n in range(4)
        ]
        return Rows(groups, what)


def verification(**changes: Any) -> Scripted:
    class Rule:
        checks_demands = False
        rule = "number"
        name = "verifier"

    def prompts(split: str, count: int) -> Rows:
        rows: Any = [
            {"prompt_id": f"{split}{n}", "split": split, "response": f"#### {n}",
             "messages": [{"role": "user", "content": f"{n}?"}], "columns": '{"answer": "7"}'}
            for n in range(count)
        ]  # fmt: skip
        return Rows(rows, split)

    splits = {"train": 6, "validation": 4, "heldout": 4}
    by_split = {name: prompts(name, count) for name, count in splits.items()}
    run, rule = (object() for _ in range(2)), Rule()
    return Scripted(run, VerifiedOptions(**{**OPTIONS, **changes}), rule, by_split, 1)  # type: ignore[arg-type]


def test_the_best_way_is_chosen_on_validation_and_reported_on_held_out():
    of, rows, headings = verification(), [], {"teacher_greedy": "teacher, greedy"}
    found = of._teacher_best(None, rows, headings)  # type: ignore[arg-type]
    assert [prompt["prompt_id"] for prompt in of.worked] == [f"train{n}" for n in range(WORKED)]
    figures = {"greedy": 0.5, "majority of 3": 0.75, "4 examples": 1.0}
    assert found == {"chosen": "4 examples", "validation": figures}
    shares = {
        arm: mean(tally([r for r in subset(rows, "trained") if r.arm == arm]))
        for arm in ("teacher_majority", "teacher_examples", "teacher_best")
    }
    assert shares == {"teacher_majority": 0.5, "teacher_examples": 0.25, "teacher_best": 0.25}
    assert {row.prompt_id[:7] for row in rows} == {"heldout"}
    # The greedy arm was there before, and is not told twice.
    assert not [row for row in rows if row.arm == "teacher_greedy"]
    assert headings["teacher_best"] == "teacher, best way: 4 examples"


def test_without_validation_prompts_nothing_is_chosen():
    of, rows, headings = verification(), [], {}
    of.by_split = {**of.by_split, "validation": Rows([], "none")}
    assert of._teacher_best(None, rows, headings) is None  # type: ignore[arg-type]
    assert rows == [] and headings == {}
