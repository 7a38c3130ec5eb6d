"""A rule's rewrite joins where no response meets a demand that a program can meet."""

from __future__ import annotations

import json

from conftest import model_in

from rankdistill.score.rewrite import REWRITES, SOURCE, rewrites
from rankdistill.score.verifier.instructions import follows

TEXTS = ["The moon is a rock.", "The moon is a large rock that moves around the earth."]
"""Long enough for its language to be told in capitals as well."""


def group(rule: str, texts=TEXTS, scores=(0.0, 0.5)):
    return {
        "prompt_id": rule,
        "split": "train",
        "messages": [{"role": "user", "content": "What is the moon?"}],
        "columns": json.dumps({"instruction_id_list": [rule], "kwargs": [{}]}),
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


def test_the_best_response_is_rewritten_so_that_it_follows(teacher):
    for rule in REWRITES:
        (made,) = rewrites([group(rule)], model_in(teacher), 64)
        (response,) = made["responses"]
        assert response["source"] == SOURCE and response["finish_reason"] == "stop"
        assert follows(response["text"], rule, {})
        assert response["text"].strip('"').lower() == TEXTS[1].lower()  # the better of the two


def test_nothing_is_written_where_a_response_follows_or_no_rule_can(teacher):
    quoted = group("startend:quotation", ['"The moon."', "The moon."])
    assert rewrites([quoted], model_in(teacher), 64) == []
    assert rewrites([group("punctuation:no_comma")], model_in(teacher), 64) == []
    assert rewrites([{**group("startend:quotation"), "columns": "{}"}], model_in(teacher), 64) == []


def test_a_rewrite_that_would_be_cut_is_left_out(teacher):
    # One token per byte, the quotation marks, and EOS.
    length = len(TEXTS[1]) + 2 + 1
    assert len(rewrites([group("startend:quotation")], model_in(teacher), length)) == 1
    assert rewrites([group("startend:quotation")], model_in(teacher), length - 1) == []
