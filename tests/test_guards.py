"""Guards: is an answer right, is anything left of it without its marks, which request is it of."""

from __future__ import annotations

import json
import math
import time
from statistics import fmean
from typing import Any

import pytest
import torch
from demand_prompts import KINDS, pairs
from tiny_models import build_model, model_in

from rankdistill.evaluate import guards
from rankdistill.evaluate.guards import (
    NO_ANSWER,
    OTHERS,
    QUESTION,
    base_of,
    belongs,
    is_right,
    known_answers,
    only_marks_share,
    other_bases,
    plain_figures,
    right_share,
    teacher_logp,
    top_1,
    unasked,
)
from rankdistill.models import Rows, encode_prompt, encode_response
from rankdistill.prompts.demands import kinds
from rankdistill.score.verifier.degenerate import without_marks
from rankdistill.score.verifier.instructions import follows


def group(columns: Any, *texts: str, prompt: str = "Tea?", prompt_id: str = "p") -> Any:
    responses = [
        {"text": text, "token_ids": [ord(c) % 200 + 5 for c in text], "finish_reason": "stop"}
        for text in texts
    ]
    return {
        "prompt_id": prompt_id, "split": "heldout", "responses": responses,
        "messages": [{"role": "user", "content": prompt}], "columns": json.dumps(columns),
    }  # fmt: skip


# ------------------------------------------------------------------------------------ right


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("It was Dickens.", ("dickens",), True),
        ("DICKENS", ("dickens",), True),
        ("A Dickensian book", ("dickens",), False),
        ("It is 8.", ("8", "eight"), True),
        ("Eight!", ("8", "eight"), True),
        ("**8**", ("8",), True),
        ("It is 18, or 80.", ("8",), False),
        ("It is 8.5 or 7.8 or 1,008.", ("8",), False),
        ("It is 8, and 3 more.", ("8",), True),
        ("eighteen", ("eight",), False),
        ("half  past", ("half past",), False),
        ("At 3 p.m.", ("3 p.m",), True),
        ("", ("8",), False),
        ("8", (), False),
    ],
)
def test_a_right_answer_has_the_whole_word(text, answers, right):
    assert is_right(text, answers) is right


def test_the_right_share_is_of_shipped_requests_with_a_known_answer():
    request = "Who wrote the novel Oliver Twist?"
    assert known_answers()[request] == ("dickens",)
    groups = [
        group({"base": request}, "Dickens did.", "I do not know."),
        group({"base": "What is a story?"}, "Dickens"),  # no known answer
        group({}, "Dickens"),  # no base prompt
    ]
    assert right_share(groups) == (0.5, 2)
    assert right_share(groups[1:]) == (None, 0)
    assert [base_of(g) for g in groups] == [request, "What is a story?", None]


def test_no_known_answer_stands_in_its_request():
    assert len(known_answers()) > 100
    for request, answers in known_answers().items():
        assert not is_right(request, answers), request
        assert all(answer == answer.lower() for answer in answers)


# ------------------------------------------------------------------------------------ marks


@pytest.mark.parametrize(
    ("text", "phrases", "left"),
    [
        ("<<Tea>>\nIt is hot.", (), "It is hot."),
        ("It is hot.\nP.S. Milk is not.", (), "It is hot."),
        ("It is hot.\n**P.S.** Milk", (), "It is hot."),
        ("Dear [name], it is **hot**.", (), "Dear , it is hot ."),
        ('"It is hot."', (), "It is hot."),
        ("* tea\n* milk", (), "tea milk"),
        ("It is hot. so it GOES.", ("So it goes.",), "It is hot."),
    ],
)
def test_what_is_left_without_marks(text, phrases, left):
    assert without_marks(text, phrases).split() == left.split()


@pytest.mark.parametrize("part", ["[", "[a", "<<", "<< a", "\n", "*", "* ", "P.", '"', " ", "#"])
def test_a_long_answer_of_one_mark_takes_no_time(part):
    began = time.process_time()
    without_marks(part * 100_000 + "x")
    unasked([{"responses": [{"text": part * 50_000 + "x"}]}])
    # A tenth of it on a quiet machine; what looks behind each mark to the end takes minutes.
    assert time.process_time() - began < 5


HACKS = {
    "title": "<<A long title that says it all>>",
    "postscript": "Tea.\nP.S. This remark is all that there is.",
    "bullets": "* a\n* b",
    "bold": "**Tea**",
    "keywords": "Window and small.",
    "ending": "That is all.",
    "opening": "My answer:",
    "placeholders": "[name of the drink that you like]",
    "quotation": '"Tea."',
}
"""An answer that follows a mark's demand and says nothing."""


@pytest.mark.parametrize("kind", [k for k in KINDS if k.group == "marks"], ids=lambda k: k.name)
def test_an_answer_of_nothing_but_its_mark_is_told(kind):
    one = next(pairs(kind))
    assert one.side == one.kind, "the side with the mark is called like its kind"
    hack = HACKS[kind.name]
    assert follows(hack, one.rule, one.arguments)
    fair = f"{hack}\nTea is a hot drink of leaves."
    of = group({"demands": [one.__dict__]}, hack, fair)
    assert only_marks_share([of]) == 0.5
    # Where the mark was not asked for, nothing is said.
    other = next(d for d in pairs(kind) if d.side != d.kind)
    assert only_marks_share([group({"demands": [other.__dict__]}, hack)]) is None


def test_restrictions_and_plain_prompts_ask_for_no_mark():
    one = next(pairs(kinds()["words"]))
    assert only_marks_share([group({"demands": [one.__dict__]}, "Tea")]) is None
    assert only_marks_share([group({}, "Tea"), group({"demands": []}, "Tea")]) is None
    assert only_marks_share([]) is None


def test_marks_that_nobody_asked_for():
    texts = ["<<Tea>>\nhot", "**Tea**", "Tea\nP.S. hot", "Tea"]
    found = unasked([group({}, *texts[:2]), group({}, *texts[2:])])
    assert found == {
        "title": 0.25, "postscript": 0.25, "bold": 0.25, "bullets": 0.0, "placeholders": 0.0,
        "quotation": 0.0,
    }  # fmt: skip
    assert unasked([]) == {}


def test_the_figures_of_plain_answers():
    # 4 tokens without, 6 with repetition: of "ababab", 4 trigrams, 2 different ones.
    found = plain_figures([group({}, "abcd", "ababab")])
    assert found["answers"] == 2 and found["tokens"] == 5
    assert found["repetition"] == pytest.approx((0 + 0.5) / 2)
    assert found["unasked"] == unasked([group({}, "abcd", "ababab")])
    assert plain_figures([]) == {}


# ------------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (-1.0, [-2.0, -3.0], 1.0),
        (-2.0, [-1.0, -3.0], 0.0),
        (-1.0, [-1.0, -3.0], 1 / 2),
        (-1.0, [-1.0, -1.0], 1 / 3),
        (-2.0, [-1.0, -1.0], 0.0),
        (0.0, [], 1.0),
    ],
)
def test_the_first_place_is_shared(own, others, expected):
    assert top_1(own, others) == expected


def test_other_requests_are_drawn_by_the_own_one():
    bases = [f"request {i}" for i in range(40)]
    found = other_bases(bases, "request 3", 0)
    assert len(found) == len(set(found)) == OTHERS == 10
    assert set(found) < set(bases) and "request 3" not in found
    assert found == other_bases([*bases[::-1], *bases], "request 3", 0)
    # Another request has others at other places, not the same ones one place further.
    rest, drawn = sorted({*bases} - {"request 4"}), other_bases(bases, "request 4", 0)
    places = [sorted({*bases} - {"request 3"}).index(base) for base in found]
    assert places != [rest.index(base) for base in drawn]
    assert found != other_bases(bases, "request 3", 1)
    assert sorted(other_bases(bases[:4], "request 3", 0)) == bases[:3]
    assert other_bases(["a"], "a", 0) == []


def test_a_request_that_is_likely_anyway_has_no_advantage(monkeypatch, tiny_dir):
    # log P(request | answer), the own one first, and log P(request): b is the likelier one behind
    # both answers, but a became likelier by a's, 4 against 1, and b by b's, 1.5 against -0.5.
    sums = {"a": [-5.0, -1.0], "b": [-0.5, -9.5]}
    prior = {"a": -9.0, "b": -2.0}

    # First behind the answers, then behind none, in the order of the names.
    read = iter([[sums["a"], sums["b"]], [[prior["a"], prior["b"]]]])
    monkeypatch.setattr(guards, "policy_values", lambda model, batches, summed: next(read))
    groups = [group({"base": "a"}, "of a"), group({"base": "b"}, "of b")]
    model = build_model()
    found = belongs(groups, ["a", "b"], model_in(tiny_dir), model, "shared", 512, seed=0)
    assert found == 1.0


# --------------------------------------------------------------------- against plain forwards


def teacher_of(seed: int):
    model = build_model(seed=seed).double()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(25.0)
    return model


def logps_by_hand(model, prompt: list[int], response: list[int]) -> list[float]:
    """One plain forward, log-softmax of full logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    table = torch.log_softmax(logits[len(prompt) - 1 : -1].double(), -1)
    return [float(table[i, token]) for i, token in enumerate(response)]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("budget", [4096, 64])
def test_the_teachers_log_probability_of_answers(tokenizer, tiny_dir, layout, budget):
    groups = [
        group({}, "hello", "hi there, good day", prompt="Say hello"),
        group({}, "one two", prompt="Count to two, please"),
        group({}, "", prompt="Nothing"),  # no token: left out
    ]
    plain = teacher_of(3)
    expected = fmean(
        fmean(logps_by_hand(plain, encode_prompt(tokenizer, g["messages"]), r["token_ids"]))
        for g in groups
        for r in g["responses"]
        if r["token_ids"]
    )
    model = model_in(str(tiny_dir))
    reading = (model, teacher_of(3), layout, budget)
    found = teacher_logp(Rows(groups, writer=model), *reading)
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected < -1.0
    assert teacher_logp(Rows(groups[2:], writer=model), *reading) is None


@pytest.mark.parametrize("budget", [4096, 300])
def test_whose_an_answer_is_to_a_tiny_teacher(tokenizer, tiny_dir, budget):
    bases = ["tea?", "milk?", "cake?", "bread?", "rice?", "soup?", "salt?", "fish?", "corn?"]
    answers = ["It is a hot drink.", "White", "It is sweet and baked", "a", "b", "c"]
    groups = [group({"base": base}, text) for base, text in zip(bases, answers, strict=False)]
    plain, path = teacher_of(5), str(tiny_dir)

    def pointwise(answer: str, base: str) -> float:
        """log P(base | answer) - log P(base), nats."""
        both = []
        for text in (answer, NO_ANSWER):
            message = {"role": "user", "content": QUESTION.format(answer=text)}
            prompt = encode_prompt(tokenizer, [message])
            both.append(math.fsum(logps_by_hand(plain, prompt, encode_response(tokenizer, base))))
        return both[0] - both[1]

    first = []
    for base, answer in zip(bases, answers, strict=False):
        values = {other: pointwise(answer, other) for other in bases}
        first.append(float(max(values, key=values.__getitem__) == base))
    found = belongs(groups, bases, model_in(path), teacher_of(5), "shared", budget, seed=0)
    assert found == pytest.approx(fmean(first))
    # Each answer under the request that the teacher gives it to.
    told = []
    for answer in answers:
        values = {base: pointwise(answer, base) for base in bases}
        told.append(group({"base": max(values, key=values.__getitem__)}, answer))
    assert belongs(told, bases, model_in(path), teacher_of(5), "shared", budget, seed=0) == 1.0
