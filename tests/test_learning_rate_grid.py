"""The learning rate that is chosen from a grid: by validation, once, and recorded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_run import TINY, run_here

from rankdistill.errors import UserError
from rankdistill.evaluate.report.learning_rates import rate_labels, rate_rows, rate_title
from rankdistill.store import Store
from rankdistill.train.grid import trained_at_best_rate


@dataclass
class Settings:
    train: Any


@dataclass
class Train:
    learning_rate: float | None
    learning_rate_grid: list[float]


@dataclass
class Judged:
    """Stands for the validation split; a model is its learning rate."""

    figures: dict[Any, float]
    warm: str = "warm"
    what: str = "figure"
    asked: list[Any] = field(default_factory=list)

    def check(self) -> None: ...

    def figure(self, model: Any, name: str) -> float:
        self.asked.append(model)
        return self.figures[model]


def choose(grid: list[float], figures: dict[Any, float], fails: tuple[float, ...] = ()) -> Any:
    run: Any = SimpleNamespace(settings=Settings(Train(7.0, grid)), learning_rates=None)

    def train() -> Any:
        rate = run.settings.train.learning_rate
        if rate in fails:
            raise UserError(f"the loss at {rate} is no number.")
        return rate, [{"rate": rate}]

    judged: Any = Judged({"warm": 0.0, **figures})
    return run, judged, trained_at_best_rate(run, judged, train)


def test_without_a_grid_nothing_is_validated():
    run, judged, (model, _) = choose([], {})
    assert model == 7.0 and judged.asked == [] and run.learning_rates is None


def test_the_best_is_kept_for_later_rounds_and_recorded():
    run, _, (model, history) = choose([3.0, 1.0, 2.0], {1.0: 0.1, 2.0: 0.5, 3.0: 0.2})
    assert model == 2.0 and history == [{"rate": 2.0}]
    assert run.settings.train == Train(2.0, [])
    assert run.learning_rates["chosen"] == 2.0 and run.learning_rates["before"] == 0.0
    assert [t["learning_rate"] for t in run.learning_rates["tried"]] == [1.0, 2.0, 3.0]


def test_of_equals_the_smallest_and_none_that_failed():
    run, _, (model, _) = choose([1.0, 2.0, 9.0], {1.0: 0.5, 2.0: 0.5}, fails=(9.0,))
    assert model == 1.0
    assert "no number" in run.learning_rates["tried"][-1]["failure"]
    assert run.learning_rates["tried"][-1]["figure"] is None
    with pytest.raises(UserError, match=r"at 1\.0"):
        choose([1.0, 2.0], {}, fails=(1.0, 2.0))


def test_the_report_shows_all_values():
    run, _, _ = choose([1e-5, 1e-4], {1e-5: 0.25, 1e-4: -1.5})
    metrics = {"learning_rates": run.learning_rates}
    assert "1e-05" in rate_title(metrics) and rate_labels(metrics) == ["1e-05", "0.0001"]
    assert [cell.value for cell in rate_rows(metrics)[0].cells] == ["0.2500", "-1.5000"]
    assert rate_labels({}) == [] and rate_rows({}) == []


def trainings(folder: Path) -> list[tuple[str, bool]]:
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    return [(s["key"], s["reused"]) for s in stages if s["stage"] == "train"]


def test_a_run_with_a_grid_is_the_run_at_the_chosen_rate(monkeypatch, tmp_path, teacher):
    tiny = [
        "recipe=dpo", *TINY, f"teacher.path={teacher}", "eval.quick.sharpening_control=false",
    ]  # fmt: skip
    folder = run_here(monkeypatch, tmp_path, *tiny, "train.learning_rate_grid=[1e-2,1e-3]")
    metrics = json.loads((folder / "metrics.json").read_text())
    chosen, tried = metrics["learning_rates"]["chosen"], metrics["learning_rates"]["tried"]
    assert chosen == max(tried, key=lambda t: t["figure"])["learning_rate"]
    assert "3 validation prompts" in metrics["learning_rates"]["what"]
    assert metrics["optimiser_steps"] == 2 and len(trainings(folder)) == 2
    for name in ("report.md", "report.html"):
        assert "chosen by validation" in (folder / name).read_text()
    weights = (folder / "model" / "model.safetensors").read_bytes()
    assert tried[0]["figure"] == pytest.approx(judged_again(metrics, 1e-3), rel=1e-9)

    plain = run_here(monkeypatch, tmp_path, *tiny, f"train.learning_rate={chosen}")
    assert [reused for _, reused in trainings(plain)] == [True]
    assert trainings(plain)[0][0] in [key for key, _ in trainings(folder)]
    assert (plain / "model" / "model.safetensors").read_bytes() == weights


def test_ppo_takes_the_same_grid_after_one_reward_model(monkeypatch, tmp_path, teacher):
    folder = run_here(
        monkeypatch, tmp_path, "recipe=ppo", *TINY, f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false", "reward.min_accuracy=0", "train.rollout.prompts=3",
        "train.epochs=1", "train.learning_rate_grid=[1e-3,1e-4]",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [t["learning_rate"] for t in metrics["learning_rates"]["tried"]] == [1e-4, 1e-3]
    assert len(trainings(folder)) == 2
    models = [s for s in metrics["stages"] if s["stage"] == "reward" and "learns" in s["what"]]
    assert len(models) == 1


def judged_again(metrics: dict[str, Any], rate: float) -> float:
    """The mean score of what the student of `rate` answered on validation, from the store."""
    said = f"learning rate {rate:g}, 3 validation prompts"
    key = next(s["key"] for s in metrics["stages"] if s["what"].startswith(said))
    output = Store().find(key)
    assert output is not None
    scores = [r["score"] for row in output.rows() for r in row["responses"]]
    assert all(map(math.isfinite, scores)) and {row["split"] for row in output.rows()} == {
        "validation"
    }
    return sum(scores) / len(scores)
