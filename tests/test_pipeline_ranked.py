"""Runs that start from a ranked set, sweeps over objectives, objectives of one's own: by CLI."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_run import refusal, run_here

from rankdistill.app.cli import main
from rankdistill.objectives import DPO, PRO

RANKED = [
    "warmup=none", "eval=[ranked]", "train.epochs=1", "train.prompts_per_step=4",
    "prompts.limit.train=8", "prompts.limit.validation=4", "prompts.limit.heldout=6",
]  # fmt: skip


@pytest.fixture
def ranked_file(tmp_path: Path) -> Path:
    """40 prompts with responses that are better the longer they are, and one row without scores."""
    texts = ("no", "well, no", "well, it is yes", "well, it is yes and more")
    rows = [
        {"prompt": f"Question {i}?", "responses": [
            {"text": text, "rating": rating} for rating, text in enumerate(texts)]}
        for i in range(40)
    ]  # fmt: skip
    rows.append({"prompt": "Broken?", "responses": [{"text": t, "rating": float("nan")} for t in
                                                    texts]})  # fmt: skip
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_ranked_set_is_trained_on_and_reported_without_sampling(
    monkeypatch, tmp_path, teacher, ranked_file, capsys
):
    folder = run_here(
        monkeypatch, tmp_path, *RANKED, f"teacher.path={teacher}", f"rank.path={ranked_file}",
        "rank.max_response_tokens=12", "rank.responses_per_prompt=3", "objective=dpo",
        "report_to=[tensorboard]", "train.epochs=2",
    )  # fmt: skip
    metrics = metrics_in(folder)
    stages = [stage["stage"] for stage in metrics["stages"]]
    assert stages == ["rank", "rank", "reference", "train", "evaluate", "evaluate"]
    counts = metrics["stages"][0]["counts"]
    assert counts["read"] == 41 and counts["score_missing"] == 1
    assert (counts["train"], counts["validation"], counts["heldout"]) == (8, 4, 6)
    assert counts["cut"] > 0
    block = metrics["ranked_set"]
    assert list(block["models"]) == ["longer", "warmed_up", "trained"] and metrics["models"] == {}
    assert block["models"]["longer"]["pair_accuracy"]["mean"] == 1.0
    assert block["prompts"] == 6 and block["pairs"] == 18
    out = capsys.readouterr().out
    assert "longer first" in out and "6 held-out rankings, 18 pairs" in out
    for name in ("report.html", "report.md", "ranked", "model"):
        assert (folder / name).exists()
    watched = {
        "rank_accuracy", "margin", "margin_accuracy", "chosen_log_ratio", "rejected_log_ratio",
        "chosen_reward", "rejected_reward", "tie_share", "length_difference",
    }  # fmt: skip
    history = metrics["training_history"]
    assert all(watched <= row.keys() for row in history if "loss" in row)
    checked = [row for row in history if "eval_loss" in row]
    assert [row["step"] for row in checked] == [0, 2, 4], (
        "validation before the first step, and after"
    )
    assert checked[0]["eval_chosen_reward"] == pytest.approx(0, abs=1e-5)
    page = (folder / "report.html").read_text()
    for panel in ("margin", "best and worst, against the reference", "implicit reward", "length"):
        assert f"Training: {panel}" in page, panel
    assert _scalars(folder / "tensorboard" / "train") >= {f"train/{name}" for name in watched}


def test_the_recipe_needs_a_file_and_nothing_else(monkeypatch, tmp_path, teacher, ranked_file):
    folder = run_here(
        monkeypatch, tmp_path, "recipe=ranked_set", f"rank.path={ranked_file}",
        f"teacher.path={teacher}", "prompts.limit.train=8", "prompts.limit.heldout=4",
    )  # fmt: skip
    metrics = metrics_in(folder)
    assert metrics["recipe"] == "ranked_set" and metrics["models"] == {}
    assert len([row for row in metrics["training_history"] if "loss" in row]) == 2


def _scalars(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_held_out_prompts_of_the_set_are_sampled_where_that_is_wanted(
    monkeypatch, tmp_path, teacher, ranked_file
):
    folder = run_here(
        monkeypatch, tmp_path, *RANKED, f"teacher.path={teacher}", f"rank.path={ranked_file}",
        "eval=[quick,ranked]", "eval.quick.sharpening_control=false", "sample=transformers",
        "sample.max_response_tokens=4", "rank.select=best_worst",
    )  # fmt: skip
    metrics = metrics_in(folder)
    assert list(metrics["models"]) == ["warmed_up", "trained", "teacher"]
    assert metrics["models"]["warmed_up"]["label"] == "before training"
    assert not metrics["judge"]["is_training_teacher"]
    held_out = set(metrics["models"]["trained"]["prompt_scores"])
    assert held_out == set(metrics["ranked_set"]["models"]["trained"]["prompt_accuracy"])
    # Trained on two responses, reported on all four.
    assert metrics["ranked_set"]["pairs"] == 6 * 6


def test_one_command_sweeps_objectives_each_at_its_own_learning_rate(
    monkeypatch, tmp_path, teacher, ranked_file
):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "-m", "recipe=rrhf", "objective=pro,dpo", *RANKED, "student.keep_layers=null",
        f"teacher.path={teacher}", f"rank.path={ranked_file}", "hydra.sweep.dir=sweep",
        "hydra.sweep.subdir=${hydra.job.num}", "train.learning_rate=null",
        "train.learning_rate_scale=5",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["rankdistill", *arguments])
    main()
    points = [metrics_in(tmp_path / "sweep" / str(number)) for number in range(2)]
    for objective, metrics in zip((PRO, DPO), points, strict=True):
        (what,) = [s["what"] for s in metrics["stages"] if s["stage"] == "train"]
        rate = 5 * objective.learning_rate
        assert what == f"{objective.__name__} on 8 ranked groups, learning rate {rate:g}"
    shared = [[s["reused"] for s in m["stages"] if s["stage"] == "rank"] for m in points]
    assert shared == [[False, False], [True, True]]


OWN = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from rankdistill.objectives import Candidates, ObjectiveOutput

@dataclass(frozen=True)
class Mine:
    scale: float = 1.0
    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 3e-4

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        return ObjectiveOutput({loss}, {{}})
"""


def own(folder: Path, monkeypatch, loss: str, options: str = "scale: 2.0") -> list[str]:
    """Arguments that choose an objective of one's own."""
    (folder / "conf" / "objective").mkdir(parents=True)
    target = "_target_: own_objective.Mine"
    (folder / "conf" / "objective" / "mine.yaml").write_text(f"{target}\n{options}\n")
    (folder / "own_objective.py").write_text(OWN.format(loss=loss))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_objective", raising=False)
    return ["--config-dir", str(folder / "conf"), "objective=mine", "warmup=none"]


def test_an_objective_of_ones_own_is_trained_with(monkeypatch, tmp_path, teacher, ranked_file):
    loss = "-self.scale * (candidates.logps * candidates.mask).sum(dim=1)"
    folder = run_here(
        monkeypatch, tmp_path, *own(tmp_path, monkeypatch, loss), *RANKED,
        f"teacher.path={teacher}", f"rank.path={ranked_file}",
    )  # fmt: skip
    (what,) = [s["what"] for s in metrics_in(folder)["stages"] if s["stage"] == "train"]
    assert what == "Mine on 8 ranked groups, learning rate 0.0003"


def test_an_objective_that_cannot_work_is_refused_at_start_up(
    monkeypatch, capsys, tmp_path, teacher
):
    """One of many ways, which test_objectives_own.py has."""
    arguments = own(tmp_path, monkeypatch, "candidates.logps")
    said = refusal(monkeypatch, capsys, tmp_path, *arguments, f"teacher.path={teacher}")
    assert "a loss of shape (2, 3) for 2 prompts: return an ObjectiveOutput" in said


def test_a_reference_that_is_read_and_not_asked_for_is_refused_with_the_remedy(
    monkeypatch, capsys, tmp_path, teacher
):
    loss = "__import__('rankdistill.objectives.lists').objectives.lists.RankedLists.of(candidates)"
    arguments = own(tmp_path, monkeypatch, f"{loss}.log_ratios(self).sum(dim=1)")
    said = refusal(monkeypatch, capsys, tmp_path, *arguments, f"teacher.path={teacher}")
    assert "Mine needs `reference_logps`" in said and "objective=rrhf" in said


def test_a_misspelt_argument_in_a_yaml_of_ones_own(monkeypatch, capsys, tmp_path, teacher):
    arguments = own(tmp_path, monkeypatch, "candidates.logps.sum(dim=1)", "scael: 2.0")
    said = refusal(monkeypatch, capsys, tmp_path, *arguments, f"teacher.path={teacher}")
    assert "has no key 'scael': did you mean 'scale'?" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["objective=dpo", "objective.beta=-0.1"], "DPO: beta must be a number above 0, not -0.1"),
        (["objective=rrhf", "objective.sft_weight=-1"], "RRHF: sft_weight must be a number, 0 or"),
        (["objective=orpo", "objective.odds_weight=-1"], "ORPO: odds_weight must be"),
        (["objective=kto", "objective.undesirable_weight=-1"], "KTO: undesirable_weight must be"),
        (["objective=dpo", "objective.label_smoothing=0.5"], "in [0, 0.5), not 0.5"),
        (["objective=robust_dpo", "objective.label_smoothing=-0.1"], "in [0, 0.5), not -0.1"),
        (["objective=dpo", "objective.bata=0.1"], "did you mean 'beta'?"),
        (["objective=lipo", "objective.discount=ln"], "LiPO: discount='ln' is unknown"),
        (["rank.responses_per_prompt=1"], "rank.responses_per_prompt is 1; it must be at least 2"),
        (["rank.max_response_tokens=0"], "rank.max_response_tokens is 0; it must be at least 1"),
        (["eval.ranked.length_match=1"], "eval.ranked.length_match is 1.0; it must be in [0, 1)"),
        (["eval=[ranked]"], "give rank.path=FILE"),
        (["eval=[]"], "no suite of `eval` applies"),
        (["rank.path=rankd.jsonl"], "did you mean 'ranked.jsonl'?"),
        (["rank.path=ranked.jsonl", "rank.score_column=ratng"], "did you mean 'rating'?"),
        (["rank.path=ranked.jsonl", "prompts.limit.heldout=0"], "no prompt for the heldout split"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    monkeypatch, capsys, tmp_path, teacher, ranked_file, arguments, said
):
    arguments = ["warmup=none", *arguments, f"teacher.path={teacher}"]
    assert said in refusal(monkeypatch, capsys, tmp_path, *arguments)


def test_scores_that_are_no_numbers_everywhere(monkeypatch, capsys, tmp_path, teacher):
    responses = [{"text": "a", "score": float("nan")}, {"text": "b", "score": 1.0}]
    (tmp_path / "nan.jsonl").write_text(json.dumps({"prompt": "?", "responses": responses}) + "\n")
    said = refusal(
        monkeypatch, capsys, tmp_path, *RANKED, f"teacher.path={teacher}", "rank.path=nan.jsonl"
    )
    assert "of 1 rows there are 1 with a score that is no number" in said
