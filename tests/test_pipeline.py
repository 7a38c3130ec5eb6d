"""The whole job on a tiny model: every stage for real, reuse, kills, a person's mistakes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from traceback import walk_stack

import pytest
from accelerate import Accelerator
from datasets import load_dataset
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY as SHRUNK
from tiny_run import refusal, run_here, shrunk
from transformers import AutoModelForCausalLM, AutoTokenizer

import rankdistill
from rankdistill import RankingTrainer
from rankdistill.models import load_tokenizer, tokenizer_digest
from rankdistill.rank.write import recorded_tokenizer
from rankdistill.store import Store

TINY = ["recipe=rrhf", *SHRUNK]


def keys_by_stage(run_folder: Path) -> dict[str, list[tuple[str, bool]]]:
    """(key, reused) of every stage in the order of the run."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for stage in json.loads((run_folder / "metrics.json").read_text())["stages"]:
        found.setdefault(stage["stage"], []).append((stage["key"], stage["reused"]))
    return found


def files_of_a_step(monkeypatch) -> set[str]:
    """Gets the package's files between `main()` and the first gradient: those that led to the step,
    and those that it calls."""
    root, files = Path(rankdistill.__file__).parent, set()
    step = RankingTrainer.training_step

    def note(frame, event="call", argument=None):
        path = Path(frame.f_code.co_filename)
        if frame.f_code is Accelerator.backward.__code__:
            sys.setprofile(None)
        if event == "call" and path.is_relative_to(root):
            files.add(path.relative_to(root).as_posix())

    def traced(trainer, *arguments):
        for frame, _ in walk_stack(None):
            note(frame)
        sys.setprofile(note)
        try:
            return step(trainer, *arguments)
        finally:
            sys.setprofile(None)
            monkeypatch.setattr(RankingTrainer, "training_step", step)

    monkeypatch.setattr(RankingTrainer, "training_step", traced)
    return files


def test_every_stage_runs_and_the_run_folder_is_complete(monkeypatch, tmp_path, teacher, capsys):
    files = files_of_a_step(monkeypatch)
    folder = run_here(monkeypatch, tmp_path, *TINY, f"teacher.path={teacher}")
    for name in ("report.html", "report.md", "metrics.json", "config.yaml", "ranked", "model"):
        assert (folder / name).exists(), name
    out = capsys.readouterr().out
    for stage in ("prompts", "student", "warmup", "sample", "score", "rank", "train", "evaluate"):
        assert stage in out
    assert "run/report.html" in out
    assert "1/8 prompts" in out and "8/8 evaluate" in out
    log = (folder / "rankdistill.log").read_text()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d rankdistill ", log)
    assert "7/8 train" in log and "  train-" in log and "read    run/report.html" in log
    student = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert student.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template
    tokenizer = load_tokenizer(str(teacher))
    recorded = recorded_tokenizer(folder / "ranked" / "train.parquet")
    assert recorded == tokenizer_digest(tokenizer)
    ranked = load_dataset(str(folder / "ranked"), cache_dir=str(tmp_path / "hf"))
    assert 1 <= len(ranked["train"]) <= 6
    for row in ranked["train"]:
        ranks = [response["rank"] for response in row["responses"]]
        scores = [response["score"] for response in row["responses"]]
        assert ranks == sorted(ranks) and ranks[0] == 0
        assert scores == sorted(scores, reverse=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["models"]) == ["start", "warmed_up", "trained", "sharpened", "teacher"]

    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    listed = page.partition("From a configuration to a gradient")[2].partition("`tests/")[0]
    assert files == {*re.findall(r"`(\w+/\w+\.py)`", listed), "objectives/rrhf.py"}
    assert len(files) <= 12

    again = run_here(monkeypatch, tmp_path, *TINY, f"teacher.path={teacher}")
    assert all(reused for stage in keys_by_stage(again).values() for _, reused in stage)

    other = run_here(
        monkeypatch, tmp_path, *TINY, f"teacher.path={teacher}", "objective.sft_weight=0.5",
        "train.max_batch_tokens=64",
    )  # fmt: skip
    for stage in ("prompts", "student", "warmup", "rank"):
        assert all(reused for _, reused in keys_by_stage(other)[stage]), stage
    assert [reused for _, reused in keys_by_stage(other)["train"]] == [False]


def test_a_run_that_goes_on_from_another_has_its_prompts_and_teacher_s_responses(
    monkeypatch, tmp_path, teacher
):
    """Its student is another model with the same tokenizer."""
    plain = [*TINY, f"teacher.path={teacher}", "rounds=0", "warmup=logits"]
    first = run_here(monkeypatch, tmp_path, *plain)
    (tmp_path / "run").rename(tmp_path / "first")
    further = run_here(
        monkeypatch, tmp_path, *plain, f"student.path={tmp_path / 'first' / 'model'}",
        "student.keep_layers=null",
    )  # fmt: skip
    assert first == further
    stages = keys_by_stage(further)
    assert [reused for _, reused in stages["prompts"]] == [True]
    assert [reused for _, reused in stages["warmup"]] == [False]
    lessons = stages["sample"][:2]  # of the training and the validation prompts
    assert [reused for _, reused in lessons] == [True, True]


def test_a_response_of_the_teacher_joins_each_train_group(
    monkeypatch, tmp_path, teacher, shared_home
):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    folder = run_here(
        monkeypatch, tmp_path, *shrunk("likelihood"), "recipe=likelihood", "rounds=2",
        f"teacher.path={teacher}", "sample.teacher_response=true",
    )  # fmt: skip
    made = keys_by_stage(folder)
    rows = {key: Store(shared_home).find(key).rows() for keys in made.values() for key, _ in keys}
    # The teacher is asked before the first round, whose ranking and the second's have its answer.
    of_teacher = {
        key for key, _ in made["sample"]
        if {(r["split"], r["responses"][0]["source"]) for r in rows[key]} == {("train", "teacher")}
    }  # fmt: skip
    assert len(of_teacher) == 1
    written = {row["prompt_id"]: row["responses"][0]["text"] for row in rows[of_teacher.pop()]}
    assert len(written) == 6
    rounds = list(zip(made["score"][:2], made["rank"], strict=True))
    for (scored, _), (ranked, _) in rounds:
        for group in rows[scored]:
            by_student = [r["text"] for r in group["responses"] if r["source"] == "student"]
            by_teacher = [r["text"] for r in group["responses"] if r["source"] == "teacher"]
            taught = [written[group["prompt_id"]]] if group["split"] == "train" else []
            assert len(by_student) == 4 and by_teacher == taught
            assert all(response["score"] < 0 for response in group["responses"])
        # Where a student happened to write the same, one of the two is enough.
        assert [{r["text"] for r in group["responses"]} for group in rows[scored]] == [
            {r["text"] for r in group["responses"]} for group in rows[ranked]
        ]


def test_a_run_starts_from_an_existing_ranked_set(monkeypatch, tmp_path, teacher):
    texts = ["yes", "no", "maybe so"]
    responses = [{"text": text, "rank": rank} for rank, text in enumerate(texts)]
    rows = [{"prompt": f"Question {i}?", "responses": responses} for i in range(12)]
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = run_here(
        monkeypatch, tmp_path, *(a for a in TINY if not a.startswith("warmup.")),
        f"teacher.path={teacher}", f"rank.path={path}", "warmup=none", "objective=dpo",
        "eval.quick.sharpening_control=false",
    )  # fmt: skip
    stages = keys_by_stage(folder)
    assert "reference" in stages and len(stages["train"]) == 1
    assert all("held out" in s["what"] for s in _stages(folder) if s["stage"] == "sample")


def _stages(folder: Path) -> list[dict]:
    return json.loads((folder / "metrics.json").read_text())["stages"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "empty"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2"),
        ('{"text": "a"}\n', "'text'"),
        ('{"prompt": "' + "long " * 300 + '"}\n', "max_prompt_tokens"),
    ],
)
def test_bad_prompt_files(monkeypatch, capsys, tmp_path, teacher, content, sentence):
    (tmp_path / "prompts.jsonl").write_text(content)
    arguments = [*TINY, f"teacher.path={teacher}", "prompts.path=prompts.jsonl"]
    assert sentence in refusal(monkeypatch, capsys, tmp_path, *arguments)


def test_a_missing_prompt_file_names_the_near_one(monkeypatch, capsys, tmp_path, teacher):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    arguments = [*TINY, f"teacher.path={teacher}", "prompts.path=prompt.jsonl"]
    assert "prompts.jsonl" in refusal(monkeypatch, capsys, tmp_path, *arguments)


def test_no_such_model(monkeypatch, capsys, tmp_path):
    said = refusal(monkeypatch, capsys, tmp_path, *TINY, "teacher.path=bundled/smollm")
    assert "bundled/smollm2-135m-instruct" in said
    said = refusal(monkeypatch, capsys, tmp_path, *TINY, "teacher.path=./nowhere")
    assert "./nowhere" in said


def test_prompts_are_looked_for_before_a_model_is(monkeypatch, capsys, tmp_path):
    arguments = [*TINY, "teacher.path=./nowhere", "prompts.path=nope.jsonl"]
    assert "no prompt file 'nope.jsonl'" in refusal(monkeypatch, capsys, tmp_path, *arguments)


@pytest.mark.parametrize("key", ["prompts.path", "rank.path"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [("\n", "'rows.jsonl' is empty"), ("{", "Malformed JSON in line 1 of ")],
)
def test_rows_are_read_before_a_model_is(
    monkeypatch, capsys, tmp_path, key: str, content: str, sentence: str
):
    (tmp_path / "rows.jsonl").write_text(content)
    arguments = [*TINY, "teacher.path=./nowhere", f"{key}=rows.jsonl"]
    assert sentence in refusal(monkeypatch, capsys, tmp_path, *arguments)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"chat_template": None}, "chat template"), ({"eos_token": None}, "EOS")],
)
def test_tokenizers_that_cannot_be_used(monkeypatch, capsys, tmp_path, teacher, change, sentence):
    tokenizer = build_tokenizer()
    for key, value in change.items():
        setattr(tokenizer, key, value)
    folder = tmp_path / "model"
    build_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    arguments = [*TINY, f"teacher.path={folder}"]
    assert sentence in refusal(monkeypatch, capsys, tmp_path, *arguments)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("student.keep_layers=9", "has 3 layers"),
        ("sample.responses_per_prompt=1", "at least 2"),
        ("sample.temperature=0", "above 0"),
        ("+train.zz=1", "'train' has no key 'zz'"),
        ("+objective.sft_wight=1", "did you mean 'sft_weight'?"),
        ("objective.sft_weight=-1", "sft_weight"),
        ("rank.tie_margin=-1", "rank.tie_margin"),
    ],
)
def test_values_out_of_range(monkeypatch, capsys, tmp_path, teacher, argument, sentence):
    arguments = [*TINY, f"teacher.path={teacher}", argument]
    assert sentence in refusal(monkeypatch, capsys, tmp_path, *arguments)


def test_logits_of_two_tokenizers(monkeypatch, capsys, tmp_path, teacher):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["zebra"])
    folder = tmp_path / "student"
    model = build_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    arguments = [*TINY, f"teacher.path={teacher}", f"student.path={folder}"]
    said = refusal(monkeypatch, capsys, tmp_path, *arguments)
    assert "tokenizers" in said and "260 and 259 tokens" in said and "warmup=sequence" in said
