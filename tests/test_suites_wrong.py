"""What a person can get wrong with a suite: one sentence, before anything is computed."""

from __future__ import annotations

import json
import re

import pytest
from suite_rows import EVAL, IFEVAL, QUESTIONS, gsm8k, suite, write
from tiny_run import refusal

from rankdistill.errors import UserError
from rankdistill.suites import harness

NOWHERE = {"endpoint": "http://127.0.0.1:9/v1", "model": "judge-1"}
PROMPTS = EVAL.parent / "rankdistill" / "data" / "mt_bench" / "judge_prompts.jsonl"


def refused(name: str, **changes) -> str:
    with pytest.raises(UserError) as raised:
        suite(name, **changes).check(None)
    return str(raised.value)


def test_a_suite_without_its_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert "pip install 'rankdistill[eval]'" in refused("gsm8k")


def test_an_unknown_suite_names_the_nearest(monkeypatch, capsys, tmp_path):
    said = refusal(monkeypatch, capsys, tmp_path, "recipe=evaluate", "eval=[gsm9k]")
    assert "'gsm9k'" in said and "did you mean 'gsm8k'?" in said


def test_an_endpoint_that_is_down_is_told_at_start_up(monkeypatch, capsys, tmp_path, teacher):
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=evaluate", "eval=[mt_bench]",
        f"teacher.path={teacher}", f"eval.mt_bench.judge.endpoint={NOWHERE['endpoint']}",
        "eval.mt_bench.judge.model=judge-1",
    )  # fmt: skip
    assert "can't be reached" in said and "eval.mt_bench.judge.endpoint" in said


def test_a_judge_that_is_not_given_or_no_url():
    assert "give eval.mt_bench.judge.endpoint" in refused("mt_bench")
    said = refused("mt_bench", judge={"endpoint": "localhost", "model": "x"})
    assert "is no URL" in said
    said = refused("mt_bench", judge={"endpoint": "http://me:key@host/v1", "model": "x"})
    assert "key_variable" in said and "me:key" not in said


def test_a_judge_prompt_without_its_placeholders(tmp_path):
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    broken = [
        {**r, "prompt_template": r["prompt_template"].replace("{answer_2}", "")} for r in rows
    ]
    said = refused("mt_bench", prompts=str(write(tmp_path / "p.jsonl", broken)), judge=NOWHERE)
    assert "lacks {answer_2}" in said and "eval.mt_bench.prompts" in said
    said = refused("mt_bench", prompts=str(write(tmp_path / "p.jsonl", rows[:1])), judge=NOWHERE)
    assert "lack 'single-" in said
    frame = tmp_path / "frame.md"
    frame.write_text("{conversation} {first} {criterion} {answer}")
    outputs = write(tmp_path / "o.jsonl", [{"instruction": "Go.", "output": "No."}])
    said = refused("alpaca_eval", prompt=str(frame), reference=str(outputs), judge=NOWHERE)
    assert "lacks {second}" in said
    said = refused("alpaca_eval", prompt="absent.md", reference=str(outputs), judge=NOWHERE)
    assert "eval.alpaca_eval.prompt" in said


def test_local_data_that_is_missing_or_malformed(tmp_path):
    assert "no file or folder" in refused("gsm8k", path=str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    assert "test.jsonl and train.jsonl" in refused("gsm8k", path=str(tmp_path / "empty"))
    folder = gsm8k(tmp_path / "gsm8k")
    write(folder / "test.jsonl", [{"question": "1+1?"}])
    assert "no 'answer' in line 1" in refused("gsm8k", path=str(folder))
    (folder / "test.jsonl").write_text("{")
    assert "line 1 of" in refused("gsm8k", path=str(folder))
    text = tmp_path / "hellaswag.txt"
    text.write_text("no case\n1\n")
    assert "Line 1 of" in refused("hellaswag", path=str(text))
    text.write_bytes(b"\xff\xfe")
    assert "can't be read" in refused("hellaswag", path=str(text))
    (tmp_path / "none.jsonl").write_text("")
    assert "has no rows" in refused("hellaswag", path=str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("name", ["gsm8k", "hellaswag", "ifeval"])
def test_data_that_only_the_hub_has_names_the_local_way(name, monkeypatch, tmp_path):
    """And neither the sets of prompts nor the files that happen to be there, which are none."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").touch()
    told = r"The data set '\S+' is .* \(HF_HUB_OFFLINE is set\): give the data of "
    remedy = rf"eval=\[{name}\] with eval\.{name}\.path=FILE, or run once with a connection\."
    assert re.fullmatch(told + remedy, refused(name))


def test_ifeval_without_its_download_names_both_remedies(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    file = write(tmp_path / "ifeval.jsonl", IFEVAL)
    said = refused("ifeval", path=str(file))
    assert "punkt_tab" in said and "eval.ifeval.checker=own" in said
    suite("ifeval", path=str(file), checker="own").check(None)


def test_questions_references_and_pairs_that_are_not():
    assert "needs pairs" in refused("pairs")
    assert "needs the outputs of a reference" in refused("alpaca_eval", judge=NOWHERE)


def test_rows_without_what_a_suite_reads(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"prompt": "Go.", "chosen": "Yes."}])
    assert "no pair of chosen and rejected in line 1" in refused("pairs", path=str(file))
    assert "no text 'instruction'" in refused("alpaca_eval", reference=str(file), judge=NOWHERE)
    assert "two turns" in refused("mt_bench", questions=str(file), judge=NOWHERE)
    questions = write(tmp_path / "q.jsonl", [{**QUESTIONS[1], "question_id": 9}])
    assert "no reference answer" in refused("mt_bench", questions=str(questions), judge=NOWHERE)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("gsm8k", "limit", 0), ("gsm8k", "shots", -1), ("hellaswag", "batch_size", 0),
     ("mt_bench", "limit", 0), ("alpaca_eval", "temperature", -1), ("pairs", "max_tokens", 0)],
)  # fmt: skip
def test_values_out_of_their_range(name, key, value):
    with pytest.raises(UserError, match=rf"eval\.{name}\.{key} is {value}"):
        suite(name, **{key: value})


def test_quick_without_training_needs_a_base(monkeypatch, capsys, tmp_path):
    said = refusal(monkeypatch, capsys, tmp_path, "recipe=evaluate", "eval=[quick]")
    assert "give base" in said
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=rrhf", "base=bundled/smollm2-135m-instruct"
    )
    assert "recipe=evaluate" in said
