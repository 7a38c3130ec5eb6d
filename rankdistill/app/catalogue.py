"""What the wheel offers by name: recipes, evaluation suites and the options of every group.

Read from the YAML files as text, so that listing them imports neither Hydra nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rankdistill.errors import UserError, suggest

TOOLS = {
    "init": "a project to begin with: recipe, prompts, scorer and objective of your own",
    "doctor": "what is installed and broken here, and the command that mends it",
    "plan": "memory, hours and disk of a run, before it starts",
    "runs": "what was run here: state, objective, lead, age",
    "compare": "which of some finished runs is better, beyond noise",
    "chat": "talk to a run's student",
    "search": "what a run's re-ranker finds, before and after it",
    "diff": "what changed in the answers of two students, word by word",
    "report": "a run's report again, from its figures",
    "rank": "a ranked set for TRL, as UltraFeedback or as JSONL",
    "review": "rank responses by hand, in a browser",
    "export": "a folder for the hub, vLLM and Docker",
    "serve": "a run's student behind an OpenAI-compatible server",
    "store": "what is kept, how large it is, and what may go",
    "migrate": "a configuration of TRL or the handbook as a command",
    "bench": "what computing a prompt once saves on this machine",
    "accelerate": "the shipped FSDP and DeepSpeed configurations",
}
"""What each `python -m rankdistill.NAME` is for."""


RECIPES = {
    "Start here": ("tour", "dpo", "rrhf", "likelihood"),
    "Objectives, on the ranking of rrhf": (
        "ipo", "kto", "pro", "plackett_luce", "lipo", "slic", "simpo", "orpo", "cpo",
        "best_of_n", "iterative_dpo", "pro_ranking_length",
    ),
    "Your own data and models": ("ranked_set", "served_teacher", "evaluate", "reranker"),
    "A public benchmark, before and after": ("ifeval_dpo",),
    "Word problems with a right answer": ("problems", "problems_ppo", "problems_gold"),
    "Reward model and PPO": ("reward_model", "ppo", "ppo_group"),
    "Distillation on what the student itself writes": (
        "on_policy", "off_policy", "self_distillation",
    ),
    "Distillation, without a ranking": (
        "warmup_comparison", "distilbert_style", "gsm8k_logits_bundled", "gsm8k_logits",
    ),
    "Zephyr": (
        "zephyr", "zephyr_sft", "zephyr_sft_on_chosen", "zephyr_no_sft", "zephyr_rrhf",
        "zephyr_pro", "zephyr_ppo", "zephyr_7b_qlora", "zephyr_7b",
    ),
}  # fmt: skip
"""The shipped recipes by what a person wants, what to begin with first."""


@dataclass(frozen=True)
class Recipe:
    """The head of a recipe's file: its first comment line, and what follows `Needs:`."""

    name: str
    what: str
    needs: str


def yaml_files(folder: Traversable) -> dict[str, Traversable]:
    """The YAML files of a folder by what an option is called, in that order."""
    entries = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): entries[name] for name in sorted(entries)}


def recipe_files() -> dict[str, Traversable]:
    """The shipped recipes by name."""
    return yaml_files(files("rankdistill.recipes"))


def suite_files() -> dict[str, Traversable]:
    """The shipped evaluation suites by name."""
    return yaml_files(files("rankdistill.eval"))


def recipes() -> list[Recipe]:
    """The shipped recipes, as they describe themselves."""
    listed = []
    for name, path in recipe_files().items():
        comments = [
            line.removeprefix("#").strip()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#") and "@package" not in line
        ]
        needs = next((line for line in comments if line.startswith("Needs:")), "Needs:")
        listed.append(Recipe(name, comments[0], needs.removeprefix("Needs:").strip()))
    return listed


def about(name: str, folders: Sequence[Path] = ()) -> str:
    """What a recipe says of itself, and what it overrides.

    Args:
        folders: With recipes of one's own, in `recipe/`.

    Raises:
        UserError: there is no such recipe.
    """
    own = {path.stem: path for folder in folders for path in (folder / "recipe").glob("*.yaml")}
    known: dict[str, Traversable] = {**recipe_files(), **own}
    if name not in known:
        raise UserError(f"there is no recipe named '{name}': {suggest(name, known)}")
    lines = known[name].read_text(encoding="utf-8").splitlines()
    shown = [line.removeprefix("# ") for line in lines if "@package" not in line]
    return "\n".join([name, "", *("" if line == "#" else line for line in shown)]).rstrip()


def plug_ins() -> dict[str, list[str]]:
    """The launchers and sweepers that `conf/hydra` configures, by their group in `hydra`."""
    folder = files("rankdistill.conf") / "hydra"
    return {entry.name: list(yaml_files(entry)) for entry in folder.iterdir()}


def groups() -> dict[str, list[str]]:
    """The options of every group in `conf/`, and the suites."""
    conf = files("rankdistill.conf")
    folders = sorted(entry.name for entry in conf.iterdir() if entry.is_dir())
    for name in ("accelerate", "hardware"):  # the launcher's, and the planner's
        folders.remove(name)
    options = {name: list(yaml_files(conf / name)) for name in folders}
    filled = {name: names for name, names in options.items() if names}
    return {**filled, "eval": list(suite_files()), "recipe": list(recipe_files())}
