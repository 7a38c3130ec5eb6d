"""Rows in the shape of every public data set that the docs name, and the reading each must have."""

from __future__ import annotations

import json

import pytest
from tiny_models import build_tokenizer

from rankdistill.errors import UserError
from rankdistill.prompts.formats import conversation, response_in
from rankdistill.rank.formats import ranked_row
from rankdistill.rank.preferences import columns_of, unpaired
from rankdistill.train.groups import ranked_group

TOKENIZER = build_tokenizer()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


HI = [user("Hi")]
BRIEF = [system("Be brief."), *HI]

PROMPTS = {
    "openai, further and null fields": (
        {"messages": [{"role": "user", "content": "Hi", "name": None, "tool_calls": None}]}, HI),
    "openai, parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
                      HI),
    "null beside what is filled": ({"messages": None, "prompt": "Hi"}, HI),
    "sharegpt with a system column": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"},
                                                  {"from": "gpt", "value": "Yo"}]}, BRIEF),
    "other words for the roles": (
        {"messages": [{"role": "Prompter", "content": "Hi"}, {"role": "model", "content": "Yo"}]},
        HI),
    "an object of lists": (
        {"messages": {"role": ["user", "assistant"], "content": ["Hi", "Yo"]}}, HI),
    "a list of texts": ({"messages": ["Hi", "Yo", "Why?"]}, [*HI, assistant("Yo"), user("Why?")]),
    "json in a cell": ({"prompt": json.dumps(BRIEF)}, BRIEF),
    "python in a cell": ({"messages": str(BRIEF)}, BRIEF),
    "alpaca with history": (
        {"system": "Be brief.", "history": [["Hi", "Yo"]], "instruction": "Why?", "input": ""},
        [*BRIEF, assistant("Yo"), user("Why?")]),
    "dolly": ({"instruction": "When?", "context": "In 1999."}, [user("When?\n\nIn 1999.")]),
    "orca": ({"system_prompt": "Be brief.", "question": "Hi", "response": "Yo"}, BRIEF),
    "a transcript": ({"prompt": "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Why?\n\nAssistant:"},
                     [*HI, assistant("Yo"), user("Why?")]),
    "a transcript with a preamble": ({"prompt": "Be brief.\n\nHuman: Hi\n\nAssistant:"}, BRIEF),
    "a transcript of the system too": (
        {"prompt": "System: Be brief.\n\nHuman: Hi\n\nAssistant:"}, BRIEF),
    "a text that mentions a human": ({"prompt": "He said:\n\nHuman: that is me."},
                                     [user("He said:\n\nHuman: that is me.")]),
    # Each of these was read as a prompt that it is not, or not at all, until it was tried.
    "blank cells beside what is filled": (
        {"messages": "", "conversations": [], "prompt": "Hi", "instruction": float("nan")}, HI),
    "messages in an object": ({"input": {"messages": HI, "tools": []}}, HI),
    "an object in a cell": ({"prompt": json.dumps({"messages": HI})}, HI),
    "text as the content": ({"messages": [{"role": "user", "text": "Hi"}]}, HI),
    "parts": ({"messages": [{"role": "user", "parts": [{"text": "Hi"}]}]}, HI),
    "speakers": ({"conversation": [{"speaker": "Human", "text": "Hi"},
                                   {"speaker": "AI Assistant", "text": "Yo"}]}, HI),
    "history in a cell": ({"history": '[["Hi", "Yo"]]', "query": "Why?"},
                          [*HI, assistant("Yo"), user("Why?")]),
    "a transcript of a user": ({"prompt": "User: Hi\n\nAssistant: Yo\n\nUser: Why?\n\nAssistant:"},
                               [*HI, assistant("Yo"), user("Why?")]),
    "a transcript of lines": ({"prompt": "Be brief.\nHuman: Hi\nAssistant: "}, BRIEF),
    "a transcript as the conversation": ({"conversation": "User: Hi\nAssistant: Yo"}, HI),
    "a text about a transcript": (
        {"prompt": "User: Hi\nAssistant: Yo\nWhat is wrong in it?"},
        [user("User: Hi\nAssistant: Yo\nWhat is wrong in it?")]),
    "a tool's answer": (
        {"messages": [user("Sum?"), {"role": "function", "content": "3"}, assistant("3")]},
        [user("Sum?"), {"role": "tool", "content": "3"}]),
}  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts(row, expected):
    assert conversation(row, "line 1") == expected


def test_what_is_answered_is_read_from_every_shape():
    assert response_in({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Yo"]}}) == (
        "Yo"
    )
    assert response_in({"messages": ["Hi", "Yo"]}) == "Yo"
    for said in ([assistant("Yo")], assistant("Yo"), json.dumps([assistant("Yo")]), "Yo"):
        assert response_in({"prompt": "Hi", "output": "", "completion": said}) == "Yo"
    assert response_in({"prompt": "Hi", "response": '["a", "b"]'}) == '["a", "b"]'  # it is one
    assert response_in({"instruction": "Hi", "response": None, "output": "Yo"}) == "Yo"


A, B = [assistant("a")], [assistant("b")]
RANKED = {
    "trl": ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, HI, [1, 0]),
    "handbook, null fields on one side": (
        {"prompt": "Hi", "chosen": [{**HI[0], "tool_calls": None}, *A], "rejected": [*HI, *B]},
        HI, [1, 0]),
    "a system turn before the prompt": (
        {"prompt": "Hi", "chosen": [*BRIEF, *A], "rejected": [*BRIEF, *B]}, BRIEF, [1, 0]),
    "white space about the prompt": (
        {"prompt": "Hi ", "chosen": [*HI, *A], "rejected": [*HI, *B]}, HI, [1, 0]),
    "the last turn as the prompt": (
        {"prompt": "Why?", "chosen": [*HI, assistant("Yo"), user("Why?"), *A],
         "rejected": [*HI, assistant("Yo"), user("Why?"), *B]},
        [*HI, assistant("Yo"), user("Why?")], [1, 0]),
    "hh": ({"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
           HI, [1, 0]),
    "hh-rlhf as trl has it": ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " a",
                               "rejected": " b"}, HI, [1, 0]),
    "llama-factory": (
        {"conversations": [{"from": "human", "value": "Hi"}],
         "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
        HI, [1, 0]),
    "llama-factory, alpaca": (
        {"instruction": "Sum", "input": "1, 2", "chosen": "a", "rejected": "b"},
        [user("Sum\n\n1, 2")], [1, 0]),
    "conversations beside texts": (
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": "a", "rejected": "b"},
        HI, [1, 0]),
    "orca pairs": ({"system": "Be brief.", "question": "Hi", "chosen": "a", "rejected": "b"},
                   BRIEF, [1, 0]),
    "json in cells": ({"chosen": json.dumps([*HI, *A]), "rejected": json.dumps([*HI, *B])}, HI,
                      [1, 0]),
    "binarized, with scores": (
        {"prompt": "Hi", "chosen": [*HI, *A], "rejected": [*HI, *B], "score_chosen": 8.5,
         "score_rejected": 7.0}, HI, [8.5, 7.0]),
    "rm-bench": ({"prompt": "Hi", "chosen": ["a"], "rejected": ["b"]}, HI, [1, 0]),
    "an object of lists": ({"prompt": "Hi", "responses": {"text": ["a", "b"], "score": [2, 1]}},
                           HI, [2, 1]),
    "lists as text": ({"prompt": "Hi", "responses": '["a", "b"]', "scores": "[2, 1]"}, HI, [2, 1]),
    "distilabel": ({"instruction": "Hi", "generations": ["a", "b"], "ratings": [5, 1]}, HI, [5, 1]),
    "ultrafeedback with a null": (
        {"instruction": "Hi", "completions": [
            {"response": "a", "fine-grained_score": None, "overall_score": 8},
            {"response": "b", "fine-grained_score": 4.0, "overall_score": 9}]}, HI, [8, 4]),
    "a null score beside a rank": (
        {"prompt": "Hi", "responses": [{"text": "a", "score": None, "rank": 0},
                                       {"text": "b", "score": None, "rank": 1}]}, HI, [0, -1]),
    "pku as a csv": ({"prompt": "Hi", "response_0": "b", "response_1": "a",
                      "better_response_id": "1"}, HI, [0, 1]),
    "helpsteer3": ({"context": HI, "response1": "a", "response2": "b", "overall_preference": -2},
                   HI, [1, 0]),
    "helpsteer3, a tie": ({"context": HI, "response1": "a", "response2": "b",
                           "overall_preference": 0}, HI, [0, 0]),
    "shp": ({"history": "Hi", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, HI, [1, 0]),
    "llmbar": ({"input": "Hi", "output_1": "a", "output_2": "b", "label": 2}, HI, [0, 1]),
    "judgebench": ({"question": "Hi", "response_A": "a", "response_B": "b", "label": "B>A"}, HI,
                   [0, 1]),
    "openai": ({"input": {"messages": HI, "tools": []}, "preferred_output": A,
                "non_preferred_output": B}, HI, [1, 0]),
    "axolotl": ({"system": "Be brief.", "question": "Hi", "chosen_response": "a",
                 "rejected_response": "b"}, BRIEF, [1, 0]),
    "ms-swift": ({"messages": [*HI, *A], "rejected_response": "b"}, HI, [1, 0]),
    "ms-swift, both": ({"messages": [*HI, *A], "rejected_messages": [*HI, *B]}, HI, [1, 0]),
    "ms-swift, query": ({"query": "Hi", "response": "a", "rejected_response": "b"}, HI, [1, 0]),
    "stack exchange": ({"question": "Hi", "response_j": "a", "response_k": "b"}, HI, [1, 0]),
    "arena": ({"conversation_a": [*HI, *A], "conversation_b": [*HI, *B], "winner": "model_b"}, HI,
              [0, 1]),
    "arena, a tie": ({"conversation_a": [*HI, *A], "conversation_b": [*HI, *B],
                      "winner": "tie (bothbad)"}, HI, [0, 0]),
    "blank cells": ({"messages": "", "prompt": "Hi", "chosen": "a", "rejected": "b", "split": "",
                     "score_chosen": "", "system": ""}, HI, [1, 0]),
    "responses in parts": (
        {"prompt": "Hi", "responses": [
            {"role": "assistant", "content": [{"type": "text", "text": "a"}], "score": 2},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}], "score": 1}]},
        HI, [2, 1]),
    "responses that are conversations": ({"prompt": HI, "completions": [A, B], "scores": [2, 1]},
                                         HI, [2, 1]),
    "responses that are messages": ({"prompt": HI, "responses": [*A, *B], "scores": [2, 1]}, HI,
                                    [2, 1]),
    "responses with a message": ({"prompt": HI, "responses": [
        {"message": A[0], "score": 2}, {"message": B[0], "score": 1}]}, HI, [2, 1]),
    "responses in cells": (
        {"prompt": "Hi", "responses": [json.dumps(A), json.dumps(B)], "ranks": [0, 1]}, HI,
        [0, -1]),
    "a list behind an open transcript": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "responses": [" a", " b"], "scores": [1, 0]}, HI,
        [1, 0]),
    "webgpt": ({"question": {"full_text": "Hi"}, "answer_0": "a", "answer_1": "b", "score_0": 0.5,
                "score_1": -0.5}, HI, [0.5, -0.5]),
}  # fmt: skip


@pytest.mark.parametrize(("row", "prompt", "scores"), RANKED.values(), ids=RANKED.keys())
def test_ranked_rows(row, prompt, scores):
    messages, responses = ranked_row(row, "line 1")
    assert messages == prompt
    assert sorted((r["text"].strip(), r["score"]) for r in responses) in (
        sorted(zip("ab", scores, strict=True)), sorted(zip("ba", scores, strict=True)),
    )  # fmt: skip
    if "chosen" in row:
        assert responses[0]["text"].strip() == "a"


@pytest.mark.parametrize(("row", "prompt", "scores"), RANKED.values(), ids=RANKED.keys())
def test_the_trainer_reads_the_same_rows(row, prompt, scores):
    made = ranked_group(row, 0, TOKENIZER)
    same = ranked_group({"prompt": prompt, "responses": ["a", "b"], "scores": scores}, 0, TOKENIZER)
    assert list(made.tokens.prompt) == list(same.tokens.prompt)
    assert sorted(made.ranks) == sorted(same.ranks)


NAMED = [
    ({"chosen": "better", "rejected": "worse"}, {"better": "a", "worse": "b"}, [1, 0]),
    ({"chosen": "x", "rejected": "y", "label": "winner", "chosen_if": "x", "rejected_if": "y"},
     {"x": "a", "y": "b", "winner": "y"}, [0, 1]),
    ({"chosen": "x", "rejected": "y", "label": "winner", "chosen_if": "x", "rejected_if": "y"},
     {"x": "a", "y": "b", "winner": "tie"}, [0, 0]),
    ({"chosen": "x", "rejected": "y", "label": "margin", "chosen_if": "positive"},
     {"x": "a", "y": "b", "margin": 0.25}, [1, 0]),
    ({"chosen": "pair.good", "rejected": "pair.bad"}, {"pair": {"good": "a", "bad": "b"}}, [1, 0]),
]  # fmt: skip


def test_a_turn_that_an_answer_goes_on_from_stays_whatever_its_fields_are_called():
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    for turns in (sharegpt, [*HI, assistant("Yo")]):
        row = {"conversations": turns, "chosen": "a", "rejected": "b"}
        assert ranked_row(row, "line 1")[0] == [*HI, assistant("Yo")]


def test_an_answer_to_an_open_transcript_begins_without_its_space():
    asked = "\n\nHuman: Hi\n\nAssistant:"
    _, responses = ranked_row({"prompt": asked, "chosen": " a", "rejected": " b"}, "line 1")
    assert [response["text"] for response in responses] == ["a", "b"]
    _, responses = ranked_row(
        {"prompt": "Hi", "chosen": "User: x\nAssistant: y", "rejected": "b"}, ""
    )
    assert responses[0]["text"] == "User: x\nAssistant: y"  # a dialogue that was asked for
    _, responses = ranked_row({"prompt": "Hi", "chosen": " a", "rejected": "b\n"}, "line 1")
    assert [response["text"] for response in responses] == [" a", "b\n"]  # as it was written


@pytest.mark.parametrize(("columns", "row", "scores"), NAMED)
def test_columns_of_other_names(columns, row, scores):
    found = ranked_row({"prompt": "Hi", **row}, "line 1", columns=columns_of(columns))[1]
    assert [r["score"] for r in found] == scores


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("better", "rank.columns is better: give a column for each name"),
        ({"chosn": "better"}, "no name 'chosn': did you mean 'chosen'"),
        ({"label": "winner"}, "not which of its values says that `chosen` is better"),
    ],
)
def test_wrong_names(columns, sentence):
    with pytest.raises(UserError, match=sentence):
        columns_of(columns)


@pytest.mark.parametrize(
    ("more", "score"),
    [({"label": True}, 1.0), ({"label": False}, 0.0), ({"helpfulness": 3}, 3.0), ({}, None)],
)
def test_a_response_alone_is_scored_by_its_label_or_by_a_column(more, score):
    row = {"prompt": "Why?", "completion": "Because.", **more}
    found = unpaired(row, "row 1", "helpfulness")
    assert (None if found is None else found["score"]) == score
