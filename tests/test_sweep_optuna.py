"""A search by Optuna that is really run."""

from __future__ import annotations

import json

import pytest
import yaml
from test_sweep import FAST, swept

from rankdistill.store import Store


def test_optuna_chooses_by_the_validation_figure(monkeypatch, tmp_path, teacher):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    arguments = [
        "recipe=rrhf", *FAST, f"teacher.path={teacher}", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2", "train.learning_rate=choice(1e-2,1e-4)",
    ]  # fmt: skip
    assert swept(monkeypatch, tmp_path, *arguments) == 0
    result = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    figures = {}
    for folder in {path.parents[1] for path in tmp_path.glob("sweep/*/.hydra/overrides.yaml")}:
        metrics = json.loads((folder / "metrics.json").read_text())
        rate = next(s["what"] for s in metrics["stages"] if s["stage"] == "train").split()[-1]
        figures[float(rate)] = validated(metrics)
    assert result["best_value"] == pytest.approx(max(figures.values()), rel=1e-9)
    best = float(result["best_params"]["train.learning_rate"])
    assert figures[best] == max(figures.values())


def validated(metrics: dict) -> float:
    """The mean score of the trained student's answers to validation prompts, from the store."""
    (trained,) = [s["key"] for s in metrics["stages"] if s["stage"] == "train"]
    (answers,) = [
        key
        for key, identity in identities("sample").items()
        if identity["model"] == {"output": trained} and identity["splits"] == ["validation"]
    ]
    (scored,) = [k for k, identity in identities("score").items() if identity["groups"] == answers]
    output = Store().find(scored)
    assert output is not None
    scores = [r["score"] for row in output.rows() for r in row["responses"]]
    return sum(scores) / len(scores)


def identities(stage: str) -> dict[str, dict]:
    """What determines every output of a stage, by its key."""
    found = (Store().root / "outputs").glob(f"{stage}-*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["identity"] for path in found}
