"""Rows in the shape of every public data set that the docs name, and the reading each must have."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import build_tokenizer
from test_prompts import load, write
from test_rank_existing import read

from rankdistill.errors import UserError
from rankdistill.models import tokenizer_digest
from rankdistill.prompts.formats import conversation, response_in
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.rank.formats import ranked_row
from rankdistill.rank.load import load_groups
from rankdistill.rank.preferences import columns_of
from rankdistill.rank.write import write_table
from rankdistill.train.groups import ranked_group
from rankdistill.warmup.conversations import Conversations

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


@pytest.mark.parametrize("name", ["trl", "llama-factory", "hh", "an object of lists", "distilabel"])
def test_the_trainer_reads_the_same_rows(name):
    row, prompt, scores = RANKED[name]
    made = ranked_group(row, 0, TOKENIZER)
    same = ranked_group({"prompt": prompt, "responses": ["a", "b"], "scores": scores}, 0, TOKENIZER)
    assert list(made.tokens.prompt) == list(same.tokens.prompt) and made.ranks == same.ranks


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


def test_an_answer_to_an_open_transcript_begins_without_its_space():
    asked = "\n\nHuman: Hi\n\nAssistant:"
    _, responses = ranked_row({"prompt": asked, "chosen": " a", "rejected": " b"}, "line 1")
    assert [response["text"] for response in responses] == ["a", "b"]
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


ODD = {
    "hh_empty": ({"chosen": "\n\nHuman: Hi\n\nAssistant:",
                  "rejected": "\n\nHuman: Hi\n\nAssistant: b"}, "empty_response"),
    "hh_diverging": ({"chosen": "\n\nHuman: Hi\n\nAssistant: x\n\nHuman: So?\n\nAssistant: a",
                      "rejected": "\n\nHuman: Hi\n\nAssistant: y\n\nHuman: So?\n\nAssistant: b"},
                     "no_common_prompt"),
    "a prompt of another conversation": (
        {"prompt": "Ho", "chosen": [*HI, *A], "rejected": [*HI, *B]}, "no_common_prompt"),
    "ends with the user": ({"chosen": [*HI, *A, user("So?")], "rejected": [*HI, *A, user("Bah")]},
                           "no_response"),
    "null": ({"prompt": "Hi", "chosen": None, "rejected": "b"}, "empty_response"),
    "a tool is called": ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "w"}}]}, *A, user("So?")], "responses": ["a", "b"], "scores": [1, 0]},
        "tool_calls"),
    "tools are given": (
        {"messages": HI, "tools": [{"function": {"name": "w"}}], "responses": ["a", "b"],
         "scores": [1, 0]}, "tool_calls"),
    "functions as text": (
        {"prompt": "Hi", "functions": '[{"name": "w"}]', "chosen": "a", "rejected": "b"},
        "tool_calls"),
    "a tool is called in the answer": (
        {"prompt": "Hi", "chosen": "a", "rejected": [{"role": "assistant", "content": "",
         "tool_calls": [{"function": {"name": "w"}}]}]}, "tool_calls"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image"}]}],
                  "responses": ["a", "b"], "scores": [1, 0]}, "no_text"),
    "no text": ({"prompt": "Hi", "responses": [{"text": True, "score": 1}, {"text": "b",
                "score": 0}]}, "no_text"),
    "half a surrogate": ({"prompt": "Smile \ud83d!", "chosen": "a", "rejected": "b"},
                         "unencodable"),
    "labels the wrong way round": ({"prompt": "Hi", "chosen": "a", "rejected": "b",
                                    "score_chosen": 1.0, "score_rejected": 2.0}, "inverted_labels"),
    "nobody known": ({"messages": [{"role": "Bob", "content": "Hi"}], "responses": ["a", "b"],
                      "scores": [1, 0]}, "unknown_role"),
    "nothing ranked": ({"prompt": "Hi", "text": "a"}, "not_ranked"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), ODD.values(), ids=ODD.keys())
def test_an_odd_row_is_counted_and_does_not_end_the_set(row, reason, tmp_path, capsys):
    fine = {"prompt": "Name a prime.", "chosen": "Seven.", "rejected": "Nine."}
    groups, counts = read(tmp_path, [fine, row])
    assert len(groups) == 1 and counts["read"] == 2 and counts[reason] == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "left out 1 row of" in told and "line 2 of" in told
    with pytest.raises(OddRow, match="line 2 of"):
        read(tmp_path, [fine, row], strict=True)
    with pytest.raises(UserError, match="line 1 of"):
        read(tmp_path, [row])


def test_hh_with_odd_rows(tmp_path, capsys):
    rows: list[Any] = [
        {"chosen": f"\n\nHuman: Question {i}?\n\nAssistant: Yes.",
         "rejected": f"\n\nHuman: Question {i}?\n\nAssistant: No."}
        for i in range(2303)
    ]  # fmt: skip
    rows[100:100] = [ODD["hh_empty"][0]] * 4
    rows[2000:2000] = [ODD["hh_diverging"][0]] * 5
    groups, counts = read(tmp_path, rows)
    assert counts["read"] == 2312 and len(groups) == 2303
    assert counts["empty_response"] == 4 and counts["no_common_prompt"] == 5
    told = " ".join(capsys.readouterr().out.split())
    for count, place in ((4, 101), (5, 2001)):
        assert re.search(rf"left out {count} rows of [^;]*; the first: [^:]*line {place} of", told)


def test_rows_of_kto_with_one_prompt_are_one_ranking(tmp_path):
    rows = [
        {"prompt": "Hi", "completion": "a", "label": True},
        {"prompt": "Ho", "completion": "x", "label": False},
        {"prompt": "Hi", "completion": "b", "label": False},
    ]
    [group], counts = read(tmp_path, rows)
    assert [(r["text"], r["score"]) for r in group["responses"]] == [("a", 1.0), ("b", 0.0)]
    assert counts["single"] == 1


@pytest.mark.parametrize("ids", ["abc", [9906, 13], [-1], [0.5], [None], [7, 8]])
def test_ids_that_this_tokenizer_did_not_write_are_written_again(ids, tmp_path):
    responses = [{"text": "a", "score": 1.0, "token_ids": ids}, {"text": "b", "score": 0.0}]
    row = {"prompt_id": "x", "messages": HI, "responses": responses}
    [group], counts = read(tmp_path, [row])
    assert group["responses"][0]["token_ids"] == TOKENIZER("a<|im_end|>")["input_ids"]
    assert counts["retokenised"] == 1


def test_ids_behind_a_part_of_the_prompt_come_back_there(tmp_path):
    ids = [TOKENIZER(f"{text}<|im_end|>")["input_ids"] for text in "ab"]
    responses = [
        {"text": t, "score": s, "token_ids": i} for t, s, i in zip("ab", (1, 0), ids, strict=True)
    ]
    row = {"prompt_id": "x", "messages": HI, "responses": responses, "prompt_tokens": 5}
    [group], _ = read(tmp_path, [row])
    assert group["prompt_tokens"] == 5


def test_no_tools_are_none():
    for none in (None, [], "[]", "", " null ", {}):
        assert conversation({"prompt": "Hi", "tools": none}, "line 1") == HI


def test_tools_are_one_count_wherever_rows_are_read(tmp_path, capsys):
    turns = [*HI, assistant("Yo")]
    row = {"messages": turns, "tools": '[{"name": "w"}]'}
    path = write(tmp_path, [{"messages": turns}, row])
    assert load(path, TOKENIZER)[1]["tool_calls"] == 1
    assert Conversations(str(path), 99, None, 0).read(TOKENIZER, set())[1]["tool_calls"] == 1
    for responses in (["a", "b"], [{"text": "a"}, {"text": "b"}]):
        ranked = {"messages": HI, "tools": ["w"], "responses": responses, "scores": [1, 0]}
        with pytest.raises(UserError, match="Row 3 gives the assistant `tools` to call"):
            ranked_group(ranked, 3, TOKENIZER)


@pytest.mark.parametrize("recorded", ["ours", "another", None])
def test_ids_are_kept_where_the_recorded_tokenizer_is_this_one(recorded, tmp_path):
    eos = TOKENIZER.eos_token_id
    own = TOKENIZER("a<|im_end|>")["input_ids"]
    responses = [
        # What a sampler says of half a character is not what its ids decode to.
        {"text": "a", "score": 1.0, "token_ids": [*own[:-1], 250, eos], "finish_reason": "stop"},
        {"text": "b", "score": 0.0, "token_ids": TOKENIZER("b")["input_ids"],
         "finish_reason": "length"},
    ]  # fmt: skip
    group: Any = {"prompt_id": "x", "split": "train", "messages": HI, "responses": responses}
    digest = {"ours": tokenizer_digest(TOKENIZER), "another": "0" * 64, None: None}[recorded]
    write_table([group], tmp_path / "ranked", digest)
    [read_again], counts = read(tmp_path, [], path=str(tmp_path / "ranked"))
    first, second = (response["token_ids"] for response in read_again["responses"])
    assert first == (responses[0]["token_ids"] if recorded == "ours" else own)
    assert second == responses[1]["token_ids"]  # written again it has no EOS either: it was cut
    assert counts.get("retokenised", 0) == {"ours": 0, "another": 2, None: 1}[recorded]


def test_a_group_without_responses_is_refused_by_the_trainer():
    with pytest.raises(UserError, match="Row 3 has the columns messages, responses"):
        ranked_group({"messages": HI, "responses": []}, 3, TOKENIZER)


def test_equal_prompts_share_a_split_whatever_they_are_called(tmp_path):
    rows = [
        {"prompt_id": f"row{i}", "prompt": "Hi", "chosen": f"Yes {i}.", "rejected": "No."}
        for i in range(12)
    ]
    groups, _ = read(tmp_path, rows)
    assert len(groups) == 12 and len({group["split"] for group in groups}) == 1


@pytest.mark.parametrize(
    ("stated", "split"),
    [("train_sft", "train"), ("test_prefs", "heldout"), ("validation-matched", "validation")],
)
def test_splits_in_the_hub_s_words(stated, split, tmp_path):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "split": stated}
    [group], _ = read(tmp_path, [row])
    assert group["split"] == split


def test_a_split_column_can_be_ignored(tmp_path):
    rows = [{"prompt": f"Question {i}?", "split": "train"} for i in range(40)]
    found = load(write(tmp_path, rows), TOKENIZER, split_column=None)[0]
    assert {prompt["split"] for prompt in found} == {"train", "validation", "heldout"}


def test_a_column_that_is_not_read_is_named_once(tmp_path, capsys):
    rows = [{"prompt": "<image>What?", "images": ["a.jpg"]}, {"prompt": "Who?", "images": ["b"]}]
    pairs = [{**row, "chosen": "a", "rejected": "b"} for row in rows]
    for reader in (
        lambda: load(write(tmp_path, rows), TOKENIZER),
        lambda: read(tmp_path, pairs),
        lambda: list(load_groups(Path(write(tmp_path, pairs)))),
    ):
        reader()
        told = " ".join(capsys.readouterr().out.split())
        assert told.count("the column 'images' is not read (line 1 of") == 1


def test_tables_hold_the_same_rows(tmp_path: Path):
    rows = [{"chosen": [*HI, *A], "rejected": [*HI, *B], "prompt": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        cells = [json.dumps(rows[0]["chosen"]), str(rows[0]["rejected"])]
        csv.writer(stream).writerows([["chosen", "rejected"], cells])
    for name in ("pairs.parquet", "pairs.csv"):
        [group], _ = read(tmp_path, [], path=str(tmp_path / name))
        assert group["messages"] == HI
        assert [r["text"] for r in group["responses"]] == ["a", "b"]
