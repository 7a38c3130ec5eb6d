"""A whole verified run on a tiny model: arms, controls, guards, rows, report; a rewrite."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_run import VERIFIED, run_here

from rankdistill.evaluate.verified import DemandRow, subset, tally
from rankdistill.evaluate.verified_figures import CONTRASTS


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def one_store(home, monkeypatch) -> None:
    """What these runs share is made once."""
    monkeypatch.setenv("RANKDISTILL_HOME", str(home))


def run(monkeypatch, folder, teacher, *arguments: str):
    return run_here(
        monkeypatch, folder, "recipe=dpo", *VERIFIED, f"teacher.path={teacher}", *arguments
    )


def test_every_arm_is_measured_and_the_figures_follow_from_the_rows(
    monkeypatch, tmp_path, teacher, capsys
):
    folder = run(monkeypatch, tmp_path, teacher)
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\d held out ", told) and "teacher's log-probability -" in told
    metrics = json.loads((folder / "metrics.json").read_text())
    verified = metrics["verified"]
    arms = [
        "start", "warmed_up", "warmed_up_greedy", "warmed_up_prompted", "warmed_up_best_of_1",
        "warmed_up_best_of_2", "trained", "trained_greedy", "trained_prompted", "sharpened",
        "teacher", "teacher_greedy", "teacher_prompted",
    ]  # fmt: skip
    assert list(verified["arms"]) == arms
    # Whichever fit into the tiny model's 512 positions.
    assert verified["prompting"]["chosen"] in verified["prompting"]["validation"]
    assert set(verified["contrasts"]) == {name for name, *_ in CONTRASTS} - {"teacher_best"}
    assert verified["teacher_best"] is None and verified["arms"]["trained"]["form"] is None
    assert verified["headline"] in ("sampled", "greedy")
    assert set(verified["guards"]) == {"warmed_up", "trained", "teacher"}
    assert verified["guards"]["trained"]["teacher_logp"] < 0
    assert metrics["judge"] == {"name": "verifier", "is_training_teacher": False}

    rows = [DemandRow(**row) for row in pq.read_table(folder / "demands.parquet").to_pylist()]
    assert {row.arm for row in rows} == set(arms)
    own = subset([row for row in rows if row.arm == "trained"], "trained")
    of = tally(own)
    assert of is not None
    shares = [of.sums[:, k].sum() / of.counts[:, k].sum() for k in range(of.sums.shape[1])]
    assert abs(sum(shares) / len(shares) - verified["arms"]["trained"]["trained"]["mean"]) < 1e-9
    kept_out = {row.kind for row in rows if not row.trained}
    assert kept_out <= {"digits", "opening", "ending"} and kept_out

    page = (folder / "report.md").read_text()
    assert "Judged by its own teacher" not in page and "Demands followed" in page
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert all("instruction_id_list" in json.loads(row["columns"]) for row in answers)


def test_the_second_run_reuses_all_and_another_objective_the_ranking(
    monkeypatch, tmp_path, teacher, capsys
):
    run(monkeypatch, tmp_path, teacher)
    capsys.readouterr()
    run(monkeypatch, tmp_path, teacher)
    told = capsys.readouterr().out
    assert re.search(r"^1-\d+ reused +prompts to \w+", told, re.MULTILINE)
    assert not re.search(r"^\d+/\d+ ", told, re.MULTILINE)
    run(monkeypatch, tmp_path, teacher, "objective=sft")
    told = capsys.readouterr().out
    assert re.search(r"^1-\d+ reused +prompts to \w+", told, re.MULTILINE)
    assert re.search(r"^\d+/\d+ train ", told, re.MULTILINE)


def test_a_rewrite_joins_the_groups(monkeypatch, tmp_path, teacher):
    folder = run(
        monkeypatch, tmp_path, teacher, "sample.rule_rewrite=true",
        "eval.quick.sharpening_control=false", "sample.max_response_tokens=60",
        "prompts.instructions.kinds=[quotation,commas,paragraphs,bold,sentences]",
    )  # fmt: skip
    rows = pq.read_table(folder / "ranked" / "train.parquet").to_pylist()
    best = [row["responses"][0] for row in rows]
    assert any(response["source"] == "rule" for response in best)


def test_models_as_they_are_judge_nothing_by_a_teacher(monkeypatch, tmp_path, teacher):
    small = [a for a in VERIFIED if not a.startswith(("warmup.", "train."))]
    folder = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", "eval=[quick,verified]", "prompts=instructions",
        "score=demands", *small, f"teacher.path={teacher}", f"base={teacher}",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["judge"] == {"name": "verifier", "is_training_teacher": False}
    # The student is the base here, so it follows what the base follows, in every arm.
    found = metrics["verified"]
    assert set(found["arms"]) >= {"warmed_up", "warmed_up_greedy", "warmed_up_best_of_2", "trained"}
    sampled = found["contrasts"]["sampled"]["trained"]
    assert (sampled["mean"], sampled["low"], sampled["high"]) == (0, 0, 0)


def test_word_problems_have_a_form_and_the_best_of_the_teachers_ways(
    monkeypatch, tmp_path, teacher, capsys
):
    small = [
        *(a for a in VERIFIED if a.startswith("prompts.limit.")), "prompts.max_prompt_tokens=400",
        "sample=transformers", "sample.max_response_tokens=40", "student.keep_layers=2",
    ]  # fmt: skip
    folder = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", "eval=[quick,verified]", "prompts=problems",
        "score=verifier", "eval.verified.majority=3", r"eval.verified.form='\d'",
        "eval.verified.prompted=false", *small, f"teacher.path={teacher}", f"base={teacher}",
    )  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert "the teacher's best way: " in told
    verified = json.loads((folder / "metrics.json").read_text())["verified"]
    # Four worked examples in bytes do not fit into the tiny model's 512 positions.
    assert set(verified["teacher_best"]["validation"]) == {"greedy", "majority of 3"}
    arms, best = verified["arms"], verified["contrasts"]["teacher_best"]
    assert {"teacher_greedy", "teacher_majority", "teacher_best"} <= set(arms)
    # The base is the teacher, and drawn bytes hold a digit more often than the right number.
    assert arms["warmed_up"]["form"]["mean"] > 0.3 > arms["warmed_up"]["trained"]["mean"]
    assert (best["of"], best["over"]) == ("trained_greedy", "teacher_best")
    page = (folder / "report.md").read_text()
    assert "in the wanted form" in page and "best way" in page
    rows = [DemandRow(**row) for row in pq.read_table(folder / "demands.parquet").to_pylist()]
    assert {row.kind for row in rows} == {"number", "form"}
