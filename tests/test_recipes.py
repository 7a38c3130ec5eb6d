"""Every recipe that runs on this machine is run: two training steps on a tiny model."""

from __future__ import annotations

import json

import pytest
from tiny_run import TINY, VERIFIED, run_here

from rankdistill import catalogue


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """One store for all recipes: the stages before training are computed once."""
    return tmp_path_factory.mktemp("home")


# Recipes that take a file of one's own run in test_pipeline_ranked.py, test_warmup_recipes.py and
# test_retrieval.py.
RECIPES = [
    name
    for name, file in catalogue.recipe_files().items()
    if "=FILE" not in file.read_text() and "unverified on GPU" not in file.read_text()
]


REWARD = ["reward.min_accuracy=0", "reward.epochs=1", "reward.prompts_per_step=3"]
PPO = [*REWARD, "train.rollout.prompts=3"]
EXTRA = {"ppo": PPO, "ppo_group": PPO, "reward_model": REWARD}
STEPS = {"iterative_dpo": 6, "distilbert_style": 0, "warmup_comparison": 0, "ppo": 4}
"""Three rounds of two; warm-ups alone; PPO has all twelve prompts, not only those that rank."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_of_every_recipe(recipe, monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    text = catalogue.recipe_files()[recipe].read_text()
    shrunk = VERIFIED if "/prompts: instructions" in text or "- rrhf\n" in text else TINY
    folder = run_here(
        monkeypatch, tmp_path, f"recipe={recipe}", *shrunk, f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false", *EXTRA.get(recipe, []),
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [row["loss"] for row in metrics["training_history"] if "loss" in row]
    assert len(losses) == STEPS.get(recipe, 2) and metrics["recipe"] == recipe
    made = "reward_model" if recipe == "reward_model" else "model"
    assert (folder / made / "model.safetensors").exists()
