"""Whole runs whose warm-up is the training, on a tiny model."""

from __future__ import annotations

import json

import pytest
from test_warmup_cross_tokenizer import merging_tokenizer
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY, refusal, run_here

RUN = [*TINY, "rounds=0"]


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def here(monkeypatch, tmp_path, shared_home):
    """Runs a command over the store that the tests share; returns the content of metrics.json."""
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))

    def run(*arguments):
        folder = run_here(monkeypatch, tmp_path, *RUN, *arguments)
        return json.loads((folder / "metrics.json").read_text())

    return run


def stages(metrics, name):
    return [stage for stage in metrics["stages"] if stage["stage"] == name]


def test_the_warm_up_is_all_the_training(here, teacher):
    metrics = here(f"teacher.path={teacher}", "warmup=logits")
    assert list(metrics["models"]) == ["warmed_up", "trained", "teacher"]
    assert metrics["models"]["warmed_up"]["label"] == "before training"
    # So small a teacher is not better than the student beyond noise: there is no way to it.
    assert [model["quality"] for model in metrics["models"].values()] == [None, None, None]
    assert metrics["title"].startswith("LogitsWarmup")
    assert not stages(metrics, "rank") and not stages(metrics, "train")
    measured = [row for row in metrics["warmup_history"] if "eval_divergence" in row]
    assert len(measured) >= 2
    assert metrics["models"]["trained"]["disk_bytes"] < metrics["models"]["teacher"]["disk_bytes"]


def test_the_best_of_n_by_the_scorer(here, teacher):
    metrics = here(f"teacher.path={teacher}", "warmup=sequence", "warmup.responses_per_prompt=3")
    [lessons] = [s for s in stages(metrics, "lessons") if s["counts"]["prompts"] == 6]
    assert lessons["counts"]["written"] == 18 and lessons["counts"]["learned"] == 6
    assert lessons["counts"]["not_best"] == 12


def test_rounds_of_the_students_own_responses(here, teacher):
    metrics = here(f"teacher.path={teacher}", "warmup=on_policy", "warmup.rounds=2")
    assert len(stages(metrics, "warmup")) == 2
    steps = [row["step"] for row in metrics["warmup_history"] if "loss" in row]
    assert steps == [1, 2]


def test_a_ladder_of_assistants(here, tmp_path, monkeypatch, capsys):
    build_model("llama", layers=5, seed=1).save_pretrained(tmp_path / "deep")
    build_tokenizer().save_pretrained(tmp_path / "deep")
    arguments = [f"teacher.path={tmp_path / 'deep'}", "warmup=logits"]
    metrics = here(*arguments, "warmup.assistants=[4,3]")
    made = [stage["what"].split(",")[0] for stage in stages(metrics, "student")]
    assert made == [
        f"2 layers of {tmp_path / 'deep'}", f"4 layers of {tmp_path / 'deep'}",
        "3 layers of an assistant", "2 layers of an assistant",
    ]  # fmt: skip
    taught = [stage["what"] for stage in stages(metrics, "warmup")]
    assert ["assistant" in what for what in taught] == [False, True, True]
    for ladder, sentence in (("[4,2]", "must fall from"), ("[3,4]", "in falling order")):
        command = [*RUN, *arguments, f"warmup.assistants={ladder}"]
        assert sentence in refusal(monkeypatch, capsys, tmp_path, *command)


def test_a_teacher_with_another_tokenizer(here, tmp_path, teacher):
    model = build_model("llama", layers=2, seed=3)
    model.resize_token_embeddings(264, mean_resizing=False)
    model.save_pretrained(tmp_path / "other")
    merging_tokenizer(tmp_path / "other")
    arguments = (f"teacher.path={tmp_path / 'other'}", f"student.path={teacher}")
    metrics = here(*arguments, "warmup=cross_tokenizer")
    [counts] = [stage["counts"] for stage in stages(metrics, "warmup")]
    assert counts["shared_tokens"] == 259 and 0 < counts["aligned_share"] <= 1
    assert here(*arguments, "warmup=sequence", "warmup.keep=all")["models"]["trained"]


@pytest.mark.parametrize("form", ["gsm8k", "sharegpt", "alpaca"])
def test_the_answers_of_the_data(form, here, tmp_path, teacher):
    forms = {
        "gsm8k": lambda q, a: {"question": q, "answer": a},
        "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
        "sharegpt": lambda q, a: {
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
        },
    }
    file = tmp_path / f"{form}.jsonl"
    rows = [forms[form](f"What is {i} + 1?", f"It is {i + 1}.\n#### {i + 1}") for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [] if form == "gsm8k" else ["prompts.column=null", "prompts.response_column=null"]
    metrics = here(
        "recipe=gsm8k_logits_bundled", f"prompts.path={file}", f"teacher.path={teacher}", *columns
    )
    [lessons] = stages(metrics, "lessons")
    assert lessons["counts"]["prompts"] == 9  # 6 to learn from, 3 to measure on
    written = [s for s in stages(metrics, "sample") if s["what"].startswith("teacher")]
    assert written and all("held out" in stage["what"] for stage in written)
    assert metrics["models"]["trained"]["score"]


def test_nothing_to_train_is_refused(monkeypatch, capsys, tmp_path, teacher):
    tiny = [argument for argument in RUN if not argument.startswith("warmup.")]
    said = refusal(monkeypatch, capsys, tmp_path, *tiny, f"teacher.path={teacher}", "warmup=none")
    assert "nothing to train" in said


def test_rationales_need_a_verifier(monkeypatch, capsys, tmp_path, teacher):
    command = [*RUN, f"teacher.path={teacher}", "warmup=sft", "warmup.rationale=true"]
    said = refusal(monkeypatch, capsys, tmp_path, *command, "warmup.minimum_score=1")
    assert "score=verifier" in said
