"""Existing ranked sets: every usual format, limits, what is set aside, what a person gets wrong."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiny_models import build_tokenizer

from rankdistill.errors import UserError
from rankdistill.rank.existing import read_ranked
from rankdistill.rank.formats import ranked_row
from rankdistill.rank.row import own_ids
from rankdistill.schema import Fractions, Limits, PromptsConfig, RankConfig, Select

TOKENIZER = build_tokenizer()
HI = [{"role": "user", "content": "Hi"}]
HELLO = {"role": "assistant", "content": "Hello."}


def texts(row: dict, **options: Any) -> tuple[list, list[tuple[str, float]]]:
    messages, responses = ranked_row(row, "line 1", **options)
    return messages, [(r["text"], r["score"]) for r in responses]


def read(
    tmp_path: Path, rows: list[dict], tokenizer: Any = TOKENIZER, **changes: Any
) -> tuple[list[Any], dict[str, int]]:
    """The groups of the rows; `changes` are keys of rank and prompts."""
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rank = dict.fromkeys(field.name for field in fields(RankConfig))
    rank |= {"path": str(path), "tie_margin": 0.0, "select": Select.all, "top_k": 2}
    none = Limits(train=None, validation=None, heldout=None)
    prompts = dict.fromkeys(field.name for field in fields(PromptsConfig))
    prompts |= {"max_prompt_tokens": 200, "limit": none, "keep": [], "split_column": "split"}
    prompts |= {"splits": Fractions(train=0.6, validation=0.2, heldout=0.2)}
    for key, value in changes.items():
        (rank if key in rank else prompts)[key] = value
    return read_ranked(RankConfig(**rank), PromptsConfig(**prompts), tokenizer)


def listed(prompt: str, *scores: float, **more: Any) -> dict[str, Any]:
    responses = [{"text": f"{prompt} {i}", "score": score} for i, score in enumerate(scores)]
    return {"prompt": prompt, "responses": responses, **more}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "responses": [{"text": "a", "score": 2}, {"text": "b", "score": 1.5}]},
        # UltraFeedback: the mean of the aspects, not the overall score.
        {"instruction": "Hi", "models": ["m"], "completions": [
            {"response": "a", "model": "m", "overall_score": 1, "fine-grained_score": 2},
            {"response": "b", "model": "n", "overall_score": 9, "fine-grained_score": 1.5}]},
        # RRHF.
        {"prompt": "Hi", "responses": ["a", "b"], "scores": [2, 1.5]},
        {"messages": [*HI, HELLO], "answers": [{"answer": "a", "reward": "2"},
                                               {"answer": "b", "reward": 1.5}]},
    ],
    ids=["ours", "ultrafeedback", "rrhf", "answers"],
)  # fmt: skip
def test_lists_with_scores(row):
    assert texts(row) == (HI, [("a", 2.0), ("b", 1.5)])


@pytest.mark.parametrize(
    ("row", "scores"),
    [
        # Nectar: a transcript as the prompt, the best has rank 1.
        ({"prompt": "\n\nHuman: Hi\n\nAssistant: ", "answers": [
            {"answer": "a", "rank": 1.0, "model": "m"}, {"answer": "b", "rank": 2.0}]}, [-1, -2]),
        ({"prompt": "Hi", "responses": [{"text": "a", "rank": 0}, {"text": "b", "rank": 1}]},
         [0, -1]),
        ({"prompt": "Hi", "responses": ["a", "b"], "rank": [0, 1]}, [0, -1]),
    ],
    ids=["nectar", "ranks", "list of ranks"],
)  # fmt: skip
def test_lists_with_ranks(row, scores):
    assert texts(row) == (HI, list(zip("ab", scores, strict=True)))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"prompt": HI, "chosen": [{"role": "assistant", "content": "a"}],
         "rejected": [{"role": "assistant", "content": "b"}]},
        # UltraFeedback binarized: both sides repeat the prompt.
        {"prompt": "Hi", "prompt_id": "x", "chosen": [*HI, {"role": "assistant", "content": "a"}],
         "rejected": [*HI, {"role": "assistant", "content": "b"}], "score_chosen": 8.0},
        # HH: two transcripts.
        {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
        # PKU-SafeRLHF.
        {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 0},
    ],
    ids=["trl", "conversations", "binarized", "hh", "pku"],
)  # fmt: skip
def test_pairs(row):
    assert texts(row) == (HI, [("a", 1.0), ("b", 0.0)])


def test_a_transcript_of_several_turns():
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nIn two words.\n\nAssistant: "
    messages, _ = texts({"chosen": start + "a\n\nb", "rejected": start + "c"})
    assert messages == [*HI, HELLO, {"role": "user", "content": "Why?\n\nIn two words."}]


def test_a_text_behind_an_open_turn_begins_without_its_space_and_tokens_stay_with_their_text():
    row = {"prompt": "Human: Hi\n\nAssistant:", "responses": [
        {"text": " a", "score": 1}, {"text": " b", "score": 0, "token_ids": [5, 6]}]}  # fmt: skip
    assert texts(row) == (HI, [("a", 1.0), (" b", 0.0)])


def test_pku_with_the_second_better():
    row = {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1}
    assert texts(row)[1] == [("a", 0.0), ("b", 1.0)]


def test_a_column_of_another_name():
    responses = [{"output": "a", "win": 0.7, "generator": "m"}, {"output": "b", "win": 0.1}]
    messages, found = ranked_row(
        {"question": "Hi", "responses": responses}, "line 1", column="question", score="win"
    )
    assert messages == HI and [r["score"] for r in found] == [0.7, 0.1]
    assert [r["source"] for r in found] == ["m", "imported"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hi"}, "line 1 has prompt"),
        ({"responses": [{"text": "a", "score": 1}]}, "no prompt in line 1"),
        ({"prompt": "Hi", "responses": [{"score": 1}]}, "no text"),
        ({"prompt": "Hi", "responses": [{"text": "a", "win": 1}]}, "rank.score_column, one of"),
        ({"prompt": "Hi", "responses": ["a", "b"], "scores": [1]}, "of the same length"),
        ({"prompt": "Hi", "responses": [1, 2]}, "neither a text nor an object"),
        ({"chosen": [*HI, HELLO], "rejected": [HELLO]}, "without a common prompt"),
        ({"prompt": "Hi", "chosen": [], "rejected": "b"}, "an empty `chosen`"),
    ],
)
def test_rows_that_are_not_ranked(row, said):
    with pytest.raises(UserError, match=said):
        ranked_row(row, "line 1")


def test_a_misspelt_score_column_names_the_near_one():
    row = {"prompt": "Hi", "responses": [{"text": "a", "helpfulness": 1}]}
    with pytest.raises(UserError, match=r"'helpfullness'.*did you mean 'helpfulness'\?"):
        ranked_row(row, "line 1", score="helpfullness")


def test_responses_are_tokenised_cut_and_marked(tmp_path):
    row = {"prompt": "Hi", "responses": [{"text": "abcdef", "rank": 0}, {"text": "ab", "rank": 1}]}
    [group], counts = read(tmp_path, [row], max_response_tokens=4)
    whole, short = group["responses"]
    assert (whole["text"], whole["finish_reason"], whole["whole_tokens"]) == ("abcd", "length", 7)
    assert whole["token_ids"] == TOKENIZER("abcd", add_special_tokens=False)["input_ids"]
    assert (short["text"], short["finish_reason"], short["whole_tokens"]) == ("ab", "stop", 3)
    assert short["token_ids"][-1] == TOKENIZER.eos_token_id
    assert "prompt_tokens" not in group  # the responses stand behind the whole prompt
    assert counts["cut"] == 1 and counts["read"] == 1


def test_a_response_that_thought_has_as_many_tokens_less_in_its_answer(tmp_path):
    responses = [{"text": "<think>\nab\n</think>\n\nc", "rank": 0}, {"text": "d", "rank": 1}]
    [group], _ = read(tmp_path, [{"prompt": "Hi", "responses": responses}])
    thinks, plain = group["responses"]
    assert 0 < thinks["thought_tokens"] < len(thinks["token_ids"])
    assert thinks["text"] == responses[0]["text"] and "thought_tokens" not in plain


def test_responses_that_are_the_same_once_cut_are_one(tmp_path):
    responses = [{"text": text, "score": i} for i, text in enumerate(("abcX", "abcY", "d"))]
    [group], _ = read(tmp_path, [{"prompt": "Hi", "responses": responses}],
                           max_response_tokens=3)  # fmt: skip
    assert [r["text"] for r in group["responses"]] == ["abc", "d"]


def test_rows_that_teach_nothing_are_set_aside_and_counted(tmp_path):
    rows = [
        listed("one", 1.0, 0.0),
        listed("nan", 1.0, math.nan),
        listed("text", 1.0, "N/A"),  # type: ignore[arg-type]
        listed("null", 1.0, None),  # type: ignore[arg-type]
        listed("tied", 1.0, 1.0),
        listed("single", 1.0),
        listed("x" * 300, 1.0, 0.0),
        listed(" ", 1.0, 0.0),
    ]
    groups, counts = read(tmp_path, rows)
    assert [g["messages"][0]["content"] for g in groups] == ["one"]
    assert counts["read"] == 8 and counts["score_missing"] == 3
    assert counts["all_tied"] == counts["single"] == counts["too_long"] == counts["empty"] == 1


def test_nothing_left_says_why(tmp_path):
    rows = [listed("a", 1.0, 1.0), listed("b", math.nan, 1.0)]
    with pytest.raises(UserError, match="of 2 rows there are 1 with a score that is no number, 1"):
        read(tmp_path, rows)
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path, [])


def test_limits_and_splits_are_those_of_prompts(tmp_path):
    rows = [listed(f"Question {i}?", 1.0, 0.0) for i in range(60)]
    limit = Limits(train=5, validation=3, heldout=None)
    groups, counts = read(tmp_path, rows, limit=limit)
    everything, _ = read(tmp_path, rows)
    splits = {g["prompt_id"]: g["split"] for g in everything}
    assert counts["train"] == 5 and counts["validation"] == 3
    assert counts["heldout"] == sum(split == "heldout" for split in splits.values())
    assert all(splits[g["prompt_id"]] == g["split"] for g in groups)
    # A row that is set aside does not take a place.
    rows[0]["responses"][1]["score"] = 1.0
    assert read(tmp_path, rows, limit=limit)[1]["train"] == 5


def test_the_draw_of_responses_is_the_same_whatever_else_is_there(tmp_path):
    rows = [listed(f"Question {i}?", *range(9)) for i in range(20)]
    groups, _ = read(tmp_path, rows, responses_per_prompt=4)
    again, _ = read(tmp_path, rows[5:], responses_per_prompt=4)
    chosen = {g["prompt_id"]: [r["score"] for r in g["responses"]] for g in groups}
    assert {len(scores) for scores in chosen.values()} == {4}
    assert len({tuple(scores) for scores in chosen.values()}) > 10
    assert all(chosen[g["prompt_id"]] == [r["score"] for r in g["responses"]] for g in again)


def test_rankings_of_the_same_prompt_stay_apart_in_one_split(tmp_path):
    rows = [{"prompt": "Hi", "chosen": a, "rejected": b} for a, b in ("ab", "cd", "ef")]
    groups, _ = read(tmp_path, rows)
    assert len({g["prompt_id"] for g in groups}) == 3 and len({g["split"] for g in groups}) == 1


def test_a_stated_split_wins_and_what_a_run_wrote_is_read_again(tmp_path):
    from rankdistill.rank.write import write_table

    groups, _ = read(tmp_path, [listed("Hi", 2.0, 1.0, split="test"), listed("Yo", 1.0, 0.0)])
    assert {g["messages"][0]["content"]: g["split"] for g in groups}["Hi"] == "heldout"
    write_table(groups, tmp_path / "ranked")
    again, _ = read(tmp_path, [], path=str(tmp_path / "ranked"))
    key = lambda g: g["prompt_id"]  # noqa: E731
    assert sorted(again, key=key) == sorted(groups, key=key)


def test_columns_for_a_verifier_stay_with_the_prompt(tmp_path):
    groups, _ = read(tmp_path, [listed("7 + 5", 1.0, 0.0, answer=12)], keep=["answer"])
    assert json.loads(groups[0]["columns"]) == {"answer": 12}
    with pytest.raises(UserError, match=r"names 'anser'.* 'answer'"):
        read(tmp_path, [listed("7 + 5", 1.0, 0.0, answer=12)], keep=["anser"])


def test_compressed_files_are_read(tmp_path):
    path = tmp_path / "ranked.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(listed("Hi", 1.0, 0.0)) + "\n")
    groups, _ = read(tmp_path, [], path=str(path))
    assert len(groups) == 1
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path, [], path=str(path))
    with pytest.raises(UserError, match="no prompt file"):
        read(tmp_path, [], path=str(tmp_path / "other.jsonl.gz"))


def test_ids_that_a_response_brings_are_kept_where_this_tokenizer_wrote_them(tokenizer):
    ids = tokenizer("ab")["input_ids"]
    brought = {"token_ids": [0, *ids], "text": "ab"}  # 0 is a special token, which is no text
    assert own_ids(brought, tokenizer, None) == own_ids(brought, tokenizer, True) == [0, *ids]
    assert own_ids(brought, tokenizer, False) is None
    # Bytes that are half a character are no text of their own: what wrote them knows, nobody else.
    other = {"token_ids": ids, "text": "cd"}
    assert own_ids(other, tokenizer, True) == ids and own_ids(other, tokenizer, None) is None
    assert own_ids({"token_ids": [len(tokenizer)], "text": ""}, tokenizer, None) is None
