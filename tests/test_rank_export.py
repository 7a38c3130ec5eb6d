"""A ranked set for other tools, and back."""

from __future__ import annotations

import json
import math

import pytest

from rankdistill.errors import UserError
from rankdistill.rank import __main__ as command
from rankdistill.rank.existing import load_groups
from rankdistill.rank.formats import ranked_row
from rankdistill.rank.write import export, write_table
from rankdistill.store.written import RECORD


def group(prompt_id: str, *scored: tuple[str, float, int], split="train"):
    responses = [
        {
            "text": text, "token_ids": [i], "finish_reason": "stop", "source": f"model-{i}",
            "scores": {"judge": score}, "aspects": {"judge/honesty": score}, "score": score,
            "rank": rank,
        }
        for i, (text, score, rank) in enumerate(scored)
    ]  # fmt: skip
    messages = [{"role": "user", "content": f"Prompt {prompt_id}"}]
    return {"prompt_id": prompt_id, "split": split, "messages": messages, "responses": responses}


GROUPS = [
    group("a", ("good", 3.0, 0), ("tied", 2.9, 0), ("bad", 1.0, 1)),
    group("b", ("x", 1.0, 0), ("y", 0.0, 1), split="validation"),
    group("c", ("same", 1.0, 0), ("other", 1.0, 0)),
]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    write_table(GROUPS, tmp_path / "run" / "ranked")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("best_worst", [("good", "bad"), ("x", "y")]),
        ("all", [("good", "tied"), ("good", "bad"), ("tied", "bad"), ("x", "y")]),
        ("adjacent", [("good", "tied"), ("tied", "bad"), ("x", "y")]),
    ],
)
def test_trls_pairs_never_tie(folder, tmp_path, pairs, expected, capsys):
    # good and tied share a rank: no pair of theirs is written, whatever their scores.
    expected = [pair for pair in expected if pair != ("good", "tied")]
    to = tmp_path / "pairs.jsonl"
    assert command.main([str(folder), str(to), "--pairs", pairs]) == 0
    found = rows(to)
    assert [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in found] == expected
    assert found[0]["prompt"] == GROUPS[0]["messages"]
    assert f"{len(expected)} rows" in capsys.readouterr().out


def test_the_set_of_a_run_that_is_not_finished_is_refused_by_either_path(folder):
    (folder / RECORD).write_text("{}")
    for path in (folder, folder / "ranked"):
        with pytest.raises(UserError, match="run' is not finished"):
            list(load_groups(path))


def test_tools_are_a_column_of_trls_rows_and_have_no_place_in_ultrafeedbacks(tmp_path):
    tools = '[{"name": "add"}]'
    given = {**GROUPS[1], "messages": [{**GROUPS[1]["messages"][0], "tools": tools}]}
    to = tmp_path / "pairs.jsonl"
    export(iter([GROUPS[0], given]), to, "trl")
    assert [row.get("tools") for row in rows(to)] == [None, tools]
    assert rows(to)[1]["prompt"] == GROUPS[1]["messages"]
    with pytest.raises(UserError, match="The prompt 'b' has tools"):
        export(iter([given]), to, "ultrafeedback")


def test_trl_reads_what_is_written(folder, tmp_path):
    from datasets import load_dataset
    from trl import is_conversational

    to = tmp_path / "pairs.parquet"
    export(load_groups(folder), to, "trl")
    data = load_dataset("parquet", data_files=str(to), cache_dir=str(tmp_path / "cache"))["train"]
    assert is_conversational(data[0]) and {"prompt", "chosen", "rejected"} <= set(data.column_names)


@pytest.mark.parametrize("how", ["ultrafeedback", "jsonl"])
def test_what_is_written_is_read_again(folder, tmp_path, how):
    to = tmp_path / "set.jsonl"
    export(load_groups(folder), to, how)
    found = [ranked_row(row, "a row") for row in rows(to)]
    given = sorted(GROUPS, key=lambda g: g["split"])  # a file per split
    assert [messages for messages, _ in found] == [g["messages"] for g in given]
    for (_, responses), g in zip(found, given, strict=True):
        assert {(r["text"], r["score"], r["source"]) for r in responses} == {
            (r["text"], r["score"], r["source"]) for r in g["responses"]
        }
    if how == "ultrafeedback":
        assert rows(to)[0]["completions"][0]["annotations"] == {"honesty": {"Rating": 3.0}}


def test_one_split_and_missing_scores(folder, tmp_path):
    to = tmp_path / "pairs.jsonl"
    assert command.main([str(folder), str(to), "--split", "validation"]) == 0
    assert [row["prompt_id"] for row in rows(to)] == ["b"]
    broken = group("d", ("a", math.nan, 0), ("b", 1.0, 1), ("c", 0.0, 2))
    export(iter([broken]), to, "trl")
    assert [row["chosen"][0]["content"] for row in rows(to)] == ["b"]


def test_bad_inputs(tmp_path, folder, capsys):
    assert command.main([str(tmp_path / "missing"), str(tmp_path / "x.jsonl")]) == 2
    assert "There is no ranked set" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean 'trl'"):
        export(iter(GROUPS), tmp_path / "x.jsonl", "tlr")
    with pytest.raises(UserError, match=r"must end in .jsonl or .parquet"):
        export(iter(GROUPS), tmp_path / "x.csv", "trl")
    with pytest.raises(UserError, match="nothing to write"):
        export(iter(GROUPS[2:]), tmp_path / "x.jsonl", "trl")


TOLD = {
    **group("s", ("good", 2.0, 0), ("bad", 1.0, 1)),
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "More"},
    ],
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("how", ["trl", "ultrafeedback", "jsonl"])
def test_system_turns_and_sets_without_aspects_come_back(how, ending, tmp_path):
    bare = [{**r, "aspects": {}, "scores": {}} for r in TOLD["responses"]]
    to = tmp_path / f"set.{ending}"
    export(iter([{**TOLD, "responses": bare}]), to, how)
    [back] = load_groups(to)
    assert back["messages"] == TOLD["messages"]
    assert [(r["text"], r["score"]) for r in back["responses"]] == [("good", 2.0), ("bad", 1.0)]


def test_a_group_keeps_what_it_has_beside_its_ranking_and_a_row_of_another_format_nothing(tmp_path):
    pair = {"prompt": "Hi", "chosen": "a", "rejected": "b", "note": 1}
    path = tmp_path / "set.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ({**GROUPS[0], "set": "x"}, pair)))
    kept, read = load_groups(path)
    assert kept["set"] == "x" and not {"note", "chosen"} & set(read)


def test_ranks_without_scores_are_written(tmp_path):
    bare = [{"text": text, "rank": rank} for text, rank in (("good", 0), ("bad", 1))]
    row = {"prompt_id": "a", "messages": [{"role": "user", "content": "Hi"}], "responses": bare}
    (tmp_path / "ranks.jsonl").write_text(json.dumps(row) + "\n")
    to = tmp_path / "pairs.jsonl"
    assert command.main([str(tmp_path / "ranks.jsonl"), str(to)]) == 0
    assert rows(to)[0]["chosen"][0]["content"] == "good"


def test_an_odd_row_is_left_out_with_a_line(tmp_path, capsys):
    fine = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}
    lines = "".join(json.dumps(row) + "\n" for row in (fine, {**fine, "chosen": ""}))
    (tmp_path / "pairs.jsonl").write_text(lines)
    assert len(list(load_groups(tmp_path / "pairs.jsonl"))) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "left out 1 row of" in told and "line 2 of" in told
