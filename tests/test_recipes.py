"""Every recipe that runs on this machine is run: two training steps on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import quickly, run_here, shrunk

from rankdistill.app import catalogue
from rankdistill.store import Output, Store

# Recipes that take a file of one's own run in test_pipeline_ranked.py, test_warmup_recipes.py and
# test_retrieval.py.
RECIPES = [
    name
    for name, file in catalogue.recipe_files().items()
    if "=FILE" not in file.read_text() and "unverified on GPU" not in file.read_text()
]


STEPS = {
    "iterative_dpo": 4, "distilbert_style": 0, "warmup_comparison": 0, "off_policy": 0, "ppo": 4,
    "on_policy": 4, "problems_gold": 0,
}  # fmt: skip
"""Two rounds of two; warm-ups alone; PPO has all twelve prompts, not only those that rank."""
TRAININGS = {"warmup": "student", "reward": "backbone", "train": "student"}
"""Stages that train, and what their identities call the model that they start from."""


DRAWN = ("rrhf", "ppo")
"""Recipes whose figures are drawn; those of the others are computed, and drawn on nothing."""


OBJECTIVES = ("cpo", "ipo", "kto", "lipo", "orpo", "plackett_luce", "pro", "simpo", "slic")
"""Recipes that are another objective for recipe=rrhf, and are evaluated as it is."""


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=[pytest.mark.drawn] * (r in DRAWN)) for r in RECIPES]
)
def test_two_steps_of_every_recipe(recipe, monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    small = quickly(shrunk(recipe)) if recipe in OBJECTIVES else shrunk(recipe)
    folder = run_here(monkeypatch, tmp_path, f"recipe={recipe}", *small, f"teacher.path={teacher}")
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [row["loss"] for row in metrics["training_history"] if "loss" in row]
    assert len(losses) == STEPS.get(recipe, 2) and metrics["recipe"] == recipe
    name = "reward_model" if recipe == "reward_model" else "model"
    assert (folder / name / "model.safetensors").exists()
    trained = trainings(metrics, Store(shared_home))
    assert trained
    for made, start in trained:
        assert unchanged(made.path / "model", start.path / "model") == [], made.key


def trainings(metrics: dict[str, Any], store: Store) -> list[tuple[Output, Output]]:
    """The outputs that hold a trained model, each with the one that it was trained from."""
    found = []
    for key in dict.fromkeys(s["key"] for s in metrics["stages"] if s["stage"] in TRAININGS):
        made = store.find(key)
        start = made.manifest["identity"].get(TRAININGS[made.stage])
        if start is not None:  # a stage of that name also reads with a reward model
            found.append((made, store.find(start["output"])))
    return found


def unchanged(made: Path, start: Path) -> list[str]:
    """Names of the matrices that the training left as they were."""
    before, after = (load_file(folder / "model.safetensors") for folder in (start, made))
    matrices = [name for name in before.keys() & after.keys() if before[name].dim() > 1]
    assert matrices
    return sorted(name for name in matrices if torch.equal(before[name], after[name]))
