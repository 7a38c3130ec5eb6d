"""Every recipe that runs on this machine is run: two training steps on a tiny model."""

from __future__ import annotations

import json

import pytest
from tiny_run import run_here, shrunk

from rankdistill import catalogue

# Recipes that take a file of one's own run in test_pipeline_ranked.py, test_warmup_recipes.py and
# test_retrieval.py.
RECIPES = [
    name
    for name, file in catalogue.recipe_files().items()
    if "=FILE" not in file.read_text() and "unverified on GPU" not in file.read_text()
]


STEPS = {"iterative_dpo": 6, "distilbert_style": 0, "warmup_comparison": 0, "ppo": 4}
"""Three rounds of two; warm-ups alone; PPO has all twelve prompts, not only those that rank."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_of_every_recipe(recipe, monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    folder = run_here(
        monkeypatch, tmp_path, f"recipe={recipe}", *shrunk(recipe), f"teacher.path={teacher}"
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [row["loss"] for row in metrics["training_history"] if "loss" in row]
    assert len(losses) == STEPS.get(recipe, 2) and metrics["recipe"] == recipe
    made = "reward_model" if recipe == "reward_model" else "model"
    assert (folder / made / "model.safetensors").exists()
