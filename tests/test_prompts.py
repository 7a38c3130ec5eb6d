"""Prompts: formats, splits, counts, and what a person can get wrong."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from rankdistill.errors import UserError
from rankdistill.models import encode_prompt, hub
from rankdistill.prompts import load_prompts, prompt_id, source_identity

SHARES = {"train": 0.66, "validation": 0.14, "heldout": 0.2}
HI = [{"role": "user", "content": "Hi"}]
TWO_TURNS = [*HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]


def write(folder: Path, rows: Sequence[Any], name: str = "prompts.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def load(path: str, tokenizer: Any, **options: Any) -> tuple[list[Any], dict[str, int]]:
    defaults = {"max_prompt_tokens": 512, "splits": SHARES, "limit": {}, "seed": 0}
    return load_prompts(path, tokenizer, **(defaults | options))


def messages(path: str, tokenizer: Any, **options: Any) -> list[Any]:
    return [prompt["messages"] for prompt in load(path, tokenizer, **options)[0]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": HI}, HI),
        ({"messages": TWO_TURNS}, TWO_TURNS),
        ({"messages": TWO_TURNS[:2]}, HI),
        ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": []}]}, HI),
        ({"messages": [dict(HI[0], name="Ada")]}, HI),
        ({"prompt": "Hi"}, HI),
        ({"prompt": HI}, HI),
        ({"prompt": "Something else", "messages": HI}, HI),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, HI),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, HI),
        (
            {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Hi"}]},
            [{"role": "system", "content": "S"}, *HI],
        ),
        ({"conversations": HI}, HI),
        ({"instruction": "Hi", "input": "", "output": "Yo"}, HI),
        ({"instruction": "Hi", "output": "Yo"}, HI),
        ({"instruction": "Sum", "input": "1, 2"}, [{"role": "user", "content": "Sum\n\n1, 2"}]),
    ],
)
def test_formats(row: dict[str, Any], expected: list[Any], tokenizer, tmp_path: Path) -> None:
    assert messages(write(tmp_path, [row]), tokenizer) == [expected]


def test_a_named_column_is_read(tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "Hi", "prompt": "No"}])
    assert messages(path, tokenizer, column="question") == [HI]
    with pytest.raises(UserError, match=r"no column 'ask' in line 1 of .*'question', 'prompt'"):
        load(path, tokenizer, column="ask")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_files_of_every_kind_give_the_same_prompts(suffix: str, tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": text, "note": "x"} for text in ("Hi", "Two\nlines, and a comma", "日本")]
    file = tmp_path / f"prompts{suffix}"
    if suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    elif suffix == ".json":
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(
                stream, ["prompt", "note"], delimiter="\t" if suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    texts = {turns[0]["content"] for turns in messages(str(file), tokenizer)}
    assert texts == {row["prompt"] for row in rows}


def test_conversations_in_parquet_and_in_table_cells(tokenizer, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"messages": TWO_TURNS}]), tmp_path / "a.parquet")
    assert messages(str(tmp_path / "a.parquet"), tokenizer) == [TWO_TURNS]
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["messages"], [json.dumps(TWO_TURNS)]])
    assert messages(str(tmp_path / "a.csv"), tokenizer) == [TWO_TURNS]


def test_what_became_of_every_row_is_counted(tokenizer, tmp_path: Path) -> None:
    rows = [
        *({"prompt": f"Question {number}"} for number in range(20)),
        {"prompt": "Question 1"},
        {"messages": [{"role": "user", "content": "Question 2"}]},
        {"prompt": " \n\t"},
        {"prompt": None},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Unasked."}]},
        {"prompt": "long " * 100},
    ]
    prompts, counts = load(write(tmp_path, rows), tokenizer, max_prompt_tokens=100)
    assert counts["read"] == 27
    assert (counts["duplicates"], counts["empty"], counts["too_long"]) == (2, 4, 1)
    assert len(prompts) == 20 == sum(counts[split] for split in SHARES)
    assert Counter(prompt["split"] for prompt in prompts) == Counter(
        {split: counts[split] for split in SHARES if counts[split]}
    )


def test_the_budget_counts_the_template(tokenizer, tmp_path: Path) -> None:
    path, tokens = write(tmp_path, [{"prompt": "Hi"}]), len(encode_prompt(tokenizer, HI))
    assert load(path, tokenizer, max_prompt_tokens=tokens)[1]["too_long"] == 0
    with pytest.raises(UserError, match=rf"max_prompt_tokens={tokens - 1} .*shortest has {tokens}"):
        load(path, tokenizer, max_prompt_tokens=tokens - 1)


def test_a_prompt_keeps_its_id_and_split_whatever_else_is_there(tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}"} for number in range(300)]
    few, _ = load(write(tmp_path, rows[:50], "few.jsonl"), tokenizer)
    many, counts = load(write(tmp_path, rows[::-1], "many.jsonl"), tokenizer)
    assert {p["prompt_id"]: p for p in few}.items() <= {p["prompt_id"]: p for p in many}.items()
    for split, share in SHARES.items():
        assert counts[split] / 300 == pytest.approx(share, abs=0.08)
    other, _ = load(str(tmp_path / "many.jsonl"), tokenizer, seed=1)
    assert {p["prompt_id"]: p["split"] for p in other} != {p["prompt_id"]: p["split"] for p in many}


def test_a_limit_takes_the_same_first_ones_from_any_order(tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}"} for number in range(100)]
    path, reversed_path = write(tmp_path, rows), write(tmp_path, rows[::-1], "reversed.jsonl")
    limit = {"train": 10, "validation": None, "heldout": 0}
    some, counts = load(path, tokenizer, limit=limit)
    everything, all_counts = load(path, tokenizer)
    assert some == load(reversed_path, tokenizer, limit=limit)[0]
    assert (counts["train"], counts["heldout"]) == (10, 0)
    assert counts["validation"] == all_counts["validation"]
    assert some[:10] == everything[:10]
    assert [p["split"] for p in everything] == sorted(
        (p["split"] for p in everything), key=list(SHARES).index
    )


def test_a_split_column_wins(tokenizer, tmp_path: Path) -> None:
    names = ["train", "validation", "heldout", "valid", "test", "dev", "Test"]
    rows = [{"prompt": f"Q {i}", "split": name} for i, name in enumerate(names)]
    prompts, _ = load(write(tmp_path, rows), tokenizer)
    found = {prompt["messages"][0]["content"]: prompt["split"] for prompt in prompts}
    assert [found[f"Q {i}"] for i in range(7)] == [
        "train", "validation", "heldout", "validation", "heldout", "validation", "heldout",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"split 'trian' in line 1 of .*'train'"):
        load(write(tmp_path, [{"prompt": "Hi", "split": "trian"}]), tokenizer)


def test_ids_are_made_of_roles_and_contents() -> None:
    assert prompt_id(HI) == prompt_id([{"content": "Hi", "role": "user"}])
    assert len(prompt_id(HI)) == 16
    assert prompt_id(HI) != prompt_id([{"role": "system", "content": "Hi"}])
    assert prompt_id([*HI, *HI]) != prompt_id([{"role": "user", "content": "HiHi"}])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "prompts '.*' are empty"),
        ("\n \n", "prompts '.*' are empty"),
        ('{"prompt": "Hi"}\n\n{"prompt": "Hi\n', "Malformed JSON in line 3 of "),
        ('{"prompt": "Hi"}\n["Hi"]\n', "JSON object is expected in line 2 of "),
        ('{"text": "Hi", "id": 3}\n', r"no prompt in line 1 of .*\('text', 'id'\).*prompts.column"),
        ("{}\n", r"no prompt in line 1 of .*\(none at all\)"),
        ('{"prompt": 3}\n', "`prompt` in line 1 of .* is neither text nor a list of messages"),
        ('{"messages": "Hi"}\n', "`messages` in line 1 of .* is text but no JSON list"),
        ('{"messages": [3]}\n', "message of `messages` in line 1 of .* is no object"),
        ('{"messages": [{"role": "user"}]}\n', r"line 1 of .* lacks a role .*\(it has 'role'\)"),
        ('{"messages": [{"content": "Hi"}]}\n', r"line 1 of .* lacks a role"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}\n', "line 1 of .* lacks a role"),
        (
            '{"conversations": [{"from": "humn", "value": "Hi"}]}\n',
            "'humn' speaks in line 1.*human",
        ),
        ('{"prompt": " "}\n', "hold 1 rows, and no text in any"),
    ],
)
def test_wrong_rows_get_one_sentence_with_their_line(
    content: str, sentence: str, tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "wrong.jsonl").write_text(content)
    with pytest.raises(UserError, match=sentence) as refusal:
        load(str(tmp_path / "wrong.jsonl"), tokenizer)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b'[{"prompt": "Hi"},\n 3]', "JSON object is expected in row 2 of "),
        ("a.json", b'{"prompt": "Hi"}', "holds no list of rows"),
        ("a.jsonl", b'{"prompt": ' + b"[" * 100_000, "is too large or too deep"),
        ("a.jsonl", b'{"prompt": "Hi", "n": ' + b"1" * 5001 + b"}", "is too large or too deep"),
        ("a.json", b'[{"prompt":\n "Hi"]', "Malformed JSON in '.*at line 2"),
        ("a.json", b" ", "are empty"),
        ("a.csv", b"prompt,note\nHi,1\nHo,1,2\n", "more cells than column names in line 3 of "),
        ("a.csv", b"", "are empty"),
        ("a.csv", b"text\nHi\n", r"no prompt in line 2 of .*\('text'\)"),
        ("a.parquet", b"no such thing", "is no readable Parquet file"),
        ("a.jsonl", b'{"prompt": "\xff"}', "is no UTF-8 text"),
        ("a.txt", b"Hi", r"of no known format: it must end in \.jsonl"),
    ],
)
def test_wrong_files_get_one_sentence(
    name: str, content: bytes, sentence: str, tokenizer, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load(str(tmp_path / name), tokenizer)


@pytest.mark.parametrize(
    "text",
    ['{"prompt": "Hi"}\n{"prompt": "Ho"}\n', '{"data": [{"prompt": "Hi"}, {"prompt": "Ho"}]}'],
)
def test_json_lines_and_wrapped_lists_in_a_json_file(text, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    found = messages(str(tmp_path / "a.json"), tokenizer)
    assert {turns[0]["content"] for turns in found} == {"Hi", "Ho"}


def test_a_missing_file_names_the_nearest(tokenizer, tmp_path: Path) -> None:
    write(tmp_path, [], "questions.jsonl")
    with pytest.raises(UserError, match=r"no prompt file .*did you mean 'questions.jsonl'\?"):
        load(str(tmp_path / "question.jsonl"), tokenizer)
    with pytest.raises(UserError, match=r"its folder '.*nowhere' doesn't exist"):
        load(str(tmp_path / "nowhere" / "a.jsonl"), tokenizer)
    with pytest.raises(UserError, match=r"no prompt file '.*/more'"):
        load(str(tmp_path / "more"), tokenizer)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"splits": {"train": 0.5, "heldout": 0.2}}, "train 0.5.*add up to 1"),
        ({"splits": {"train": 1.5, "heldout": -0.5}}, "at least 0 and add up to 1"),
        ({"splits": {"trian": 1.0}}, "no split 'trian': .*'train'"),
        ({"limit": {"test": 3}}, "no split 'test'"),
        ({"limit": {"train": -1}}, "limit of the split 'train' is -1"),
    ],
)
def test_impossible_splits_are_refused(
    options: dict[str, Any], sentence: str, tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        load(write(tmp_path, [{"prompt": "Hi"}]), tokenizer, **options)


@pytest.fixture
def hub_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """An offline machine that has `someone/chats`; what is asked of `datasets` is noted."""
    asked: list[tuple[Any, ...]] = []
    rows = {"train_sft": ["Hi"], "test_sft": ["Ho"]}

    def load_dataset(repository: str, config: str | None, revision: str) -> datasets.DatasetDict:
        asked.append((repository, config, revision))
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_dict({"prompt": rows[split]}) for split in rows}
        )

    (tmp_path / "datasets--someone--chats" / "refs").mkdir(parents=True)
    (tmp_path / "datasets--someone--chats" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    return asked


def test_hub_data_sets_are_read_at_their_commit(tokenizer, hub_data: list[Any]) -> None:
    assert messages("someone/chats:train_sft", tokenizer) == [HI]
    assert messages("someone/chats/main:train_sft", tokenizer) == [HI]
    assert hub_data == [("someone/chats", None, "abc"), ("someone/chats", "main", "abc")]
    with pytest.raises(UserError, match=r"no split 'train', add one as .*'train_sft'"):
        load("someone/chats", tokenizer)


def test_a_data_set_that_cannot_be_had_gets_one_sentence(
    tokenizer, hub_data: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"data set 'startr' is no local file.*'starter'"):
        load("startr", tokenizer)

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"\(Config name is missing\): .*`owner/name/config`"):
        load("someone/chats", tokenizer)


def test_sources_are_identified_by_their_content(hub_data: list[Any], tmp_path: Path) -> None:
    one, same = write(tmp_path, [{"prompt": "Hi"}]), write(tmp_path, [{"prompt": "Hi"}], "b.jsonl")
    assert source_identity(one) == source_identity(same)
    assert source_identity(one) != source_identity(write(tmp_path, [{"prompt": "Ho"}], "c.jsonl"))
    assert set(source_identity("starter")) == {"sha256"}
    name = "someone/chats:train_sft"
    assert source_identity(name) == {"data": name, "commit": "abc"}
    with pytest.raises(UserError, match="no prompt file"):
        source_identity(str(tmp_path / "d.jsonl"))


def starter() -> list[dict[str, str]]:
    text = (resources.files("rankdistill.data") / "starter_prompts.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_starter_set_is_short_and_varied() -> None:
    rows = starter()
    assert len(rows) >= 260
    assert all(set(row) == {"prompt", "category"} for row in rows)
    assert all(4 <= len(row["prompt"].split()) <= 30 for row in rows)
    categories = Counter(row["category"] for row in rows)
    assert len(categories) >= 12 and max(categories.values()) <= 0.1 * len(rows)


def test_the_starter_set_holds_no_near_duplicates() -> None:
    """Jaccard similarity of word pairs."""
    shingles = []
    for row in starter():
        words = "".join(c if c.isalnum() else " " for c in row["prompt"].lower()).split()
        shingles.append((row["prompt"], set(pairwise(words))))
    for (one, a), (other, b) in combinations(shingles, 2):
        assert len(a & b) <= 0.4 * len(a | b), (one, other)


def test_the_starter_set_is_split_as_the_job_needs_it(tokenizer) -> None:
    prompts, counts = load("starter", tokenizer)
    assert counts["read"] == len(prompts) == len(starter())
    assert counts["train"] >= 160 and counts["validation"] >= 30 and counts["heldout"] >= 48


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ({"messages": TWO_TURNS[:2]}, {}, "Hello."),
        ({"messages": TWO_TURNS}, {}, None),
        ({"messages": json.dumps(TWO_TURNS[:2])}, {}, "Hello."),
        ({"prompt": TWO_TURNS[:2]}, {}, "Hello."),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, {},
         "Yo"),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, {}, "3"),
        ({"prompt": "Hi", "completion": " "}, {}, None),
        ({"question": "1 + 2?", "steps": "3", "answer": "no"},
         {"column": "question", "response_column": "steps"}, "3"),
    ],
)  # fmt: skip
def test_the_response_of_the_data_stays_beside_the_prompt(
    row, options, expected, tmp_path, tokenizer
):
    prompt = load(write(tmp_path, [row]), tokenizer, **options)[0][0]
    assert prompt.get("response") == expected
    assert prompt["messages"][-1]["role"] == "user"
