"""A whole run in seconds: what shrinks a recipe to a tiny model and a handful of prompts."""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import forked
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from rankdistill.app import catalogue
from rankdistill.app.cli import main
from rankdistill.app.hydra_setup import register

SMALL = [
    "sample=transformers",
    "student.keep_layers=2",
    "prompts.max_prompt_tokens=200",
    "prompts.limit.train=6",
    "prompts.limit.validation=3",
    "prompts.limit.heldout=4",
    "sample.max_response_tokens=6",
    "warmup.epochs=1",
    "train.epochs=1",
    "train.prompts_per_step=3",
]
"""Of any recipe."""
LIKELIHOOD = [
    "prompts=starter", "score=likelihood", "sample.responses_per_prompt=4", "rank.select=all",
]  # fmt: skip
TINY = [*LIKELIHOOD, *SMALL]
"""Short prompts, judged by the teacher: what a model of random weights writes follows no demand."""
VERIFIED = [
    *SMALL, "prompts.max_prompt_tokens=800", "prompts.limit.train=12",
    "prompts.instructions.demands_per_prompt=[4]", "prompts.instructions.both_sides=false",
    "sample.from_cluster=false", "sample.responses_per_prompt=8", "sample.max_response_tokens=30",
    "sample.temperature=1.0", "eval.verified.best_of=[1,2]", "eval.verified.best_of_prompts=2",
    "eval.verified.guard_prompts=2",
]  # fmt: skip
"""Prompts with demands, of which bytes drawn at random follow some."""
PROBLEMS = [
    *SMALL, "prompts.max_prompt_tokens=400", "sample.responses_per_prompt=8",
    "sample.max_response_tokens=40", "sample.temperature=1.0", "score.rule=regex",
    r"score.pattern='\d'", "eval.verified.majority=null", "eval.verified.best_of=[1]",
    "eval.verified.best_of_prompts=2",
]  # fmt: skip
"""Word problems, whose rule is what bytes drawn at random meet as well: a digit anywhere."""
REWARD = ["reward.min_accuracy=0", "reward.epochs=1", "reward.prompts_per_step=3"]
PPO = [*REWARD, "train.rollout.prompts=3"]
RERANKER = [
    "reward.epochs=1", "reward.prompts_per_step=3", "retrieval.encoder=null",
    "retrieval.passages=4", "retrieval.train_passages=3", "retrieval.timed_queries=2",
    "retrieval.max_passage_tokens=60",
]  # fmt: skip
OF_RECIPE = {
    "ppo": PPO, "ppo_group": PPO, "reward_model": REWARD, "reranker": RERANKER,
    "on_policy": PPO[-1:], "self_distillation": PPO[-1:], "problems_ppo": PPO[-1:],
}  # fmt: skip


def shrunk(recipe: str) -> list[str]:
    """What makes a recipe two training steps long; a file of one's own is not among it."""
    text = catalogue.recipe_files()[recipe].read_text()
    with_demands = ("/prompts: instructions", "- rrhf", "- on_policy")
    verified = any(f"{base}\n" in text for base in with_demands)
    problems = recipe.startswith("problems")
    base = PROBLEMS if problems else VERIFIED if verified else TINY
    small = [*base, *OF_RECIPE.get(recipe, [])]
    if "/warmup: none" in text:
        small.remove("warmup.epochs=1")
    else:  # two steps
        small.append("warmup.responses_per_step=3")
    if "/eval: [ranked]" not in text and "/retrieval:" not in text:
        small.append("eval.quick.sharpening_control=false")
    return small


def quickly(small: list[str]) -> list[str]:
    """The same without the arms of verified demands, each of which is sampled and checked."""
    if not any(part.startswith("eval.verified.") for part in small):
        return small
    return [*(part for part in small if not part.startswith("eval.verified.")), "eval=[quick]"]


def run_here(monkeypatch, folder: Path, *arguments: str) -> Path:
    """The command in this process; returns its run folder."""
    monkeypatch.chdir(folder)
    named = any(argument.startswith("recipe=") for argument in arguments)
    recipe = [] if named else ["recipe=none"]
    monkeypatch.setattr(sys, "argv", ["rankdistill", *recipe, *arguments, "hydra.run.dir=run"])
    main()
    return folder / "run"


def run_by_two(folder: Path, *arguments: str) -> Path:
    """The command in two processes of one launch, with a store in `folder`; their run folder."""
    folder.mkdir()
    both = forked.together(
        "rankdistill", *arguments, "hydra.run.dir=run", cwd=folder,
        RANKDISTILL_HOME=str(folder / "home"), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert [done.returncode for done in both] == [0, 0], both[0].stderr[-2000:]
    return folder / "run"


def refusal(monkeypatch, capsys, folder: Path, *arguments: str) -> str:
    """The one sentence of a refused command."""
    with pytest.raises(SystemExit) as ended:
        run_here(monkeypatch, folder, *arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def composed(*overrides: str) -> DictConfig:
    """The configuration that a command line with these overrides would have."""
    searched = any("searchpath" in override for override in overrides)
    # A folder of one's own may hold other files the next time, so its composition is not kept.
    return _compose(overrides) if searched else deepcopy(_composed_once(overrides))


@cache
def _composed_once(overrides: tuple[str, ...]) -> DictConfig:
    return _compose(overrides)


def _compose(overrides: tuple[str, ...]) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_module("rankdistill.conf", version_base="1.3"):
        return compose("config", list(overrides))
