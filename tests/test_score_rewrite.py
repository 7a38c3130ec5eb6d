"""A rule's rewrite joins where no response meets a demand that a program can meet."""

from __future__ import annotations

import json

import pytest
from tiny_models import model_in

from rankdistill.score.rewrite import REWRITES, SOURCE, rewrites
from rankdistill.score.verifier.instructions import follows

TEXTS = ["The moon is a rock.", "The moon is a large rock that moves around the earth."]
"""Long enough for its language to be told in capitals as well."""


def group(rule: str, texts=TEXTS, scores=(0.0, 0.5), arguments=None):
    return {
        "prompt_id": rule,
        "split": "train",
        "messages": [{"role": "user", "content": "What is the moon?"}],
        "columns": json.dumps({"instruction_id_list": [rule], "kwargs": [arguments or {}]}),
        "responses": [
            {
                "text": t,
                "token_ids": [5, 6],
                "finish_reason": "stop",
                "source": "student",
                "score": s,
            }
            for t, s in zip(texts, scores, strict=True)
        ],
    }


REWRITTEN = [
    ("change_case:english_capital", {}, TEXTS[1].upper()),
    ("change_case:english_lowercase", {}, TEXTS[1].lower()),
    ("startend:quotation", {}, f'"{TEXTS[1]}"'),
    ("startend:end_checker", {"end_phrase": "So it goes."}, f"{TEXTS[1]} So it goes."),
    ("form:opening", {"phrase": "In my view,"}, f"In my view, {TEXTS[1]}"),
    ("detectable_format:title", {}, f"<<The moon is a>>\n{TEXTS[1]}"),
    ("form:bold", {"least": 1}, TEXTS[1].replace("around", "**around**")),
    ("form:bold", {"least": 2}, TEXTS[1].replace("around the earth", "**around** the **earth**")),
]  # fmt: skip
SENTENCES = "It is a rock, round. It moves. It shines."
OF_SENTENCES = [
    ("form:postscript", {}, "It is a rock, round. It moves.\nP.S. It shines."),
    ("form:bullets", {"least": 2}, "* It is a rock, round.\n* It moves.\n* It shines."),
    ("form:paragraphs", {"least": 2}, "It is a rock, round.\n\nIt moves. It shines."),
    ("form:paragraphs", {"least": 3}, "It is a rock, round.\n\nIt moves.\n\nIt shines."),
    ("form:one_sentence", {}, "It is a rock, round."),
    ("punctuation:no_comma", {}, "It is a rock round. It moves. It shines."),
]


@pytest.mark.parametrize(("rule", "arguments", "expected"), REWRITTEN)
def test_the_best_response_is_rewritten_so_that_it_follows(teacher, rule, arguments, expected):
    (made,) = rewrites([group(rule, arguments=arguments)], model_in(teacher), 99)
    (response,) = made["responses"]
    assert response["source"] == SOURCE and response["finish_reason"] == "stop"
    assert response["text"] == expected  # of the better of the two
    assert follows(response["text"], rule, arguments)


@pytest.mark.parametrize(("rule", "arguments", "expected"), OF_SENTENCES)
def test_sentences_become_another_form(teacher, rule, arguments, expected):
    (made,) = rewrites([group(rule, [SENTENCES], [0.5], arguments)], model_in(teacher), 99)
    assert made["responses"][0]["text"] == expected
    assert follows(expected, rule, arguments)


def test_every_rewrite_is_tried():
    assert {*REWRITES} == {rule for rule, *_ in REWRITTEN + OF_SENTENCES} | {
        "form:one_paragraph", "form:no_bold",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [("form:one_paragraph", "A.\nB.", "A. B."), ("form:no_bold", "It is **hot**.", "It is hot.")],
)
def test_a_mark_is_taken_out(teacher, rule, text, expected):
    (made,) = rewrites([group(rule, [text], [0.5])], model_in(teacher), 99)
    assert made["responses"][0]["text"] == expected


def test_the_next_best_response_is_taken_where_the_best_has_too_little(teacher):
    """One sentence has no last one that could become a postscript."""
    texts, scores = ["It shines.", "It is a rock. It moves."], [0.9, 0.5]
    (made,) = rewrites([group("form:postscript", texts, scores)], model_in(teacher), 99)
    assert made["responses"][0]["text"] == "It is a rock.\nP.S. It moves."
    assert rewrites([group("form:postscript", texts[:1], scores[:1])], model_in(teacher), 99) == []


def test_a_demand_that_a_rewrite_cannot_meet_changes_nothing(teacher):
    """Of two sentences there are no three bullets."""
    asked = group("form:bullets", ["It moves. It shines."], [0.5], {"least": 3})
    assert rewrites([asked], model_in(teacher), 99) == []


def test_nothing_is_written_where_a_response_follows_or_no_rule_can(teacher):
    quoted = group("startend:quotation", ['"The moon."', "The moon."])
    assert rewrites([quoted], model_in(teacher), 64) == []
    assert (
        rewrites(
            [group("keywords:existence", arguments={"keywords": ["sea"]})], model_in(teacher), 64
        )
        == []
    )
    assert rewrites([{**group("startend:quotation"), "columns": "{}"}], model_in(teacher), 64) == []


def test_a_rewrite_that_would_be_cut_is_left_out(teacher):
    # One token per byte, the quotation marks, and EOS.
    length = len(TEXTS[1]) + 2 + 1
    longest = [group("startend:quotation", TEXTS[1:], [0.5])]
    assert len(rewrites(longest, model_in(teacher), length)) == 1
    assert rewrites(longest, model_in(teacher), length - 1) == []
