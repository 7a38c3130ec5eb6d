"""Sets of rows of others: what is set aside and counted, which split and which ids a row has."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prompts import load, write
from test_rank_existing import read
from test_rows_of_others import HI, TOKENIZER, A, B, assistant, user

from rankdistill.errors import UserError
from rankdistill.models import tokenizer_digest
from rankdistill.prompts.formats import conversation
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.rank.existing import load_groups
from rankdistill.rank.write import write_table
from rankdistill.train.groups import ranked_group
from rankdistill.warmup.conversations import Conversations

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
        {"function": {"name": "add"}}]}, *A, user("So?")], "responses": ["a", "b"],
        "scores": [1, 0]}, "refused_by_template"),
    "a tool without a name is called": ({"messages": [*HI, {"role": "assistant", "tool_calls": [
        {"function": {}}]}, user("So?")], "responses": ["a", "b"], "scores": [1, 0]},
        "unnamed_tool"),
    "tools are given": (
        {"messages": HI, "tools": [{"function": {"name": "add"}}], "responses": ["a", "b"],
         "scores": [1, 0]}, "refused_by_template"),
    "functions as text": (
        {"prompt": "Hi", "functions": '[{"name": "add"}]', "chosen": "a", "rejected": "b"},
        "refused_by_template"),
    "tools without names": (
        {"prompt": "Hi", "tools": ["add"], "chosen": "a", "rejected": "b"}, "unnamed_tool"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image"}]}],
                  "responses": ["a", "b"], "scores": [1, 0]}, "no_text"),
    "no text": ({"prompt": "Hi", "responses": [{"text": True, "score": 1}, {"text": "b",
                "score": 0}]}, "no_text"),
    "half a surrogate": ({"prompt": "Smile \ud83d!", "chosen": "a", "rejected": "b"},
                         "unencodable"),
    "half a surrogate in a response": ({"prompt": "Hi", "responses": [
        {"text": "\ud83d!", "score": 1}, {"text": "b", "score": 0}]}, "unencodable"),
    "labels the wrong way round": ({"prompt": "Hi", "chosen": "a", "rejected": "b",
                                    "score_chosen": 1.0, "score_rejected": 2.0}, "inverted_labels"),
    "nobody known": ({"messages": [{"role": "Bob", "content": "Hi"}], "responses": ["a", "b"],
                      "scores": [1, 0]}, "unknown_role"),
    "tools beside an object of messages": (
        {"input": {"messages": HI, "tools": [{"name": "add"}]}, "preferred_output": A,
         "non_preferred_output": B}, "refused_by_template"),
    "a label and no prompt": ({"label": True, "reply": "a"}, "no_prompt"),
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


KTO = {
    "messages": {"prompt": HI, "completion": A, "label": True},
    "cells": {"prompt": "Hi", "completion": json.dumps(A), "label": "true"},
    "one conversation": {"messages": [*HI, *A], "label": True},
    "llama-factory": {"conversations": [{"from": "human", "value": "Hi"},
                                        {"from": "gpt", "value": "a"}], "kto_tag": True},
}  # fmt: skip


@pytest.mark.parametrize("good", KTO.values(), ids=KTO.keys())
def test_one_response_per_row_in_any_shape(good, tmp_path):
    bad = {"prompt": "Hi", "completion": "b", "label": False}
    [group], _ = read(tmp_path, [good, bad])
    assert [(r["text"], r["score"]) for r in group["responses"]] == [("a", 1.0), ("b", 0.0)]
    # `python -m rankdistill.rank` said that there was nothing to write.
    [written] = load_groups(Path(write(tmp_path, [good, bad])))
    assert [(r["text"], r["score"]) for r in written["responses"]] == [("a", 1.0), ("b", 0.0)]
    assert written["messages"] == HI


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


def test_a_template_without_words_for_tools_refuses_them_wherever_rows_are_read(tmp_path):
    turns = [*HI, assistant("Yo")]
    row = {"messages": turns, "tools": '[{"name": "add"}]'}
    path = write(tmp_path, [{"messages": turns}, row])
    assert load(path, TOKENIZER)[1]["refused_by_template"] == 1
    read = Conversations(str(path), 99, None, 0).read(TOKENIZER, set())
    assert read[1]["refused_by_template"] == 1
    for responses in (["a", "b"], [{"text": "a"}, {"text": "b"}]):
        ranked = {**row, "messages": HI, "responses": responses, "scores": [1, 0]}
        with pytest.raises(UserError, match="leaves out the tool 'add'"):
            ranked_group(ranked, 3, TOKENIZER)
        with pytest.raises(UserError, match="`tools` in Row 3 is no list of tools"):
            ranked_group({**ranked, "tools": ["add"]}, 3, TOKENIZER)


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
    [
        ("train_sft", "train"),
        ("test_prefs", "heldout"),
        ("validation-matched", "validation"),
        ("Testing", "heldout"),
        ("development", "validation"),
        (" TRAIN ", "train"),
    ],
)
def test_splits_in_the_hub_s_words(stated, split, tmp_path):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "split": stated}
    [group], _ = read(tmp_path, [row])
    assert group["split"] == split


@pytest.mark.parametrize("blank", ["", "  ", None, float("nan")])
def test_a_row_without_a_split_draws_one(blank, tmp_path):
    # A table's empty cell ended the set.
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    [stated], _ = read(tmp_path, [{**row, "split": blank}])
    [drawn], _ = read(tmp_path, [row])
    assert stated["split"] == drawn["split"]


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


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        ({"reasoning_content": "Hm."}, "messages.reasoning_content"),
        ({"thinking": "Hm."}, "messages.thinking"),
        ({"weight": 0}, "messages.weight"),
        ({"reasoning_content": None, "weight": 1}, None),
    ],
)
def test_what_of_a_message_is_not_read_is_named(turn, name, tmp_path, capsys):
    row = {"messages": [*HI, {**assistant("Yo"), **turn}]}
    load(write(tmp_path, [row]), TOKENIZER)
    told = " ".join(capsys.readouterr().out.split())
    assert (f"the column '{name}' is not read" in told) == bool(name)


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
