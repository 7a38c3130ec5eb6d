"""The learning rate that is chosen from a grid: by validation, once, and recorded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TINY, run_here

from rankdistill.errors import Diverged, UserError
from rankdistill.report.stages import rate_labels, rate_rows, rate_title
from rankdistill.stages.validation import GridSearch, train_at_best_rate
from rankdistill.store import Store


@dataclass
class Judged:
    """Stands for the validation split; a model is its learning rate."""

    figures: dict[Any, float]
    warm: str = "warm"
    what: str = "figure"

    def check(self) -> None: ...

    def figure(self, model: Any, name: str) -> float:
        return self.figures[model]


def choose(
    grid: list[float], figures: dict[Any, float], fails: tuple[float, ...] = ()
) -> GridSearch:
    def train(rate: float) -> Any:
        if rate in fails:
            raise Diverged(f"the loss at {rate} is no number.")
        return rate, [{"rate": rate}]

    judged: Any = Judged({"warm": 0.0, **figures})
    return train_at_best_rate(grid, judged, train)


def test_the_best_is_chosen_and_recorded():
    search = choose([3.0, 1.0, 2.0], {1.0: 0.1, 2.0: 0.5, 3.0: 0.2})
    assert search.learning_rate == 2.0 and search.trained == (2.0, [{"rate": 2.0}])
    assert search.figures["chosen"] == 2.0 and search.figures["before"] == 0.0
    assert [t["learning_rate"] for t in search.figures["tried"]] == [1.0, 2.0, 3.0]


def test_of_equals_the_smallest_and_none_that_failed():
    search = choose([1.0, 2.0, 9.0], {1.0: 0.5, 2.0: 0.5}, fails=(9.0,))
    assert search.learning_rate == 1.0
    assert "no number" in search.figures["tried"][-1]["failure"]
    assert search.figures["tried"][-1]["figure"] is None
    with pytest.raises(Diverged, match=r"at 1\.0"):
        choose([1.0, 2.0], {}, fails=(1.0, 2.0))


def test_a_full_disk_is_no_verdict_on_a_rate():
    def train(rate: float) -> Any:
        if rate == 1.0:
            raise UserError("No space for the store.")
        return rate, []

    judged: Any = Judged({"warm": 0.0, 1.0: 0.5, 2.0: 0.2})
    with pytest.raises(UserError, match="No space"):
        train_at_best_rate([1.0, 2.0], judged, train)


def test_the_report_shows_all_values():
    search = choose([1e-5, 1e-4], {1e-5: 0.25, 1e-4: -1.5})
    metrics = {"learning_rates": search.figures}
    assert "1e-05" in rate_title(metrics) and rate_labels(metrics) == ["1e-05", "0.0001"]
    assert [cell.value for cell in rate_rows(metrics)[0].cells] == ["0.2500", "-1.5000"]
    assert rate_labels({}) == [] and rate_rows({}) == []


def trainings(folder: Path) -> list[tuple[str, bool]]:
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    return [(s["key"], s["reused"]) for s in stages if s["stage"] == "train"]


def test_a_run_with_a_grid_is_the_run_at_the_chosen_rate(monkeypatch, tmp_path, teacher):
    tiny = [
        "recipe=dpo", *TINY, f"teacher.path={teacher}", "eval.quick.sharpening_control=false",
        "rounds=2",
    ]  # fmt: skip
    folder = run_here(monkeypatch, tmp_path, *tiny, "train.learning_rate_grid=[1e-2,1e-3]")
    metrics = json.loads((folder / "metrics.json").read_text())
    chosen, tried = metrics["learning_rates"]["chosen"], metrics["learning_rates"]["tried"]
    assert chosen == max(tried, key=lambda t: t["figure"])["learning_rate"]
    assert metrics["overrides"] == [*tiny, "train.learning_rate_grid=[1e-2,1e-3]"]
    assert "3 validation prompts" in metrics["learning_rates"]["what"]
    # The first round trains at both rates, the second at the one that was chosen.
    assert metrics["optimiser_steps"] == 4 and len(trainings(folder)) == 3
    for name in ("report.md", "report.html"):
        assert "chosen by validation" in (folder / name).read_text()
    weights = (folder / "model" / "model.safetensors").read_bytes()
    assert tried[0]["figure"] == pytest.approx(judged_again(metrics, 1e-3), rel=1e-9)

    plain = run_here(monkeypatch, tmp_path, *tiny, f"train.learning_rate={chosen}")
    assert [reused for _, reused in trainings(plain)] == [True, True]
    keys = [key for key, _ in trainings(folder)]
    assert [key for key, _ in trainings(plain)] == [k for k in keys if k in dict(trainings(plain))]
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
