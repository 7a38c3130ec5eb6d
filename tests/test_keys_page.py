"""Every key is explained, on its page and on a terminal, by the comments of the YAML files."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from omegaconf import DictConfig
from tiny_run import composed

from rankdistill.app import catalogue
from rankdistill.app.start_page import asked_for, explain, keys
from rankdistill.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"


def leaves(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in config:
        value = config._get_node(key)
        name = f"{prefix}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, DictConfig) and value else [name]
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train=ppo", "warmup=hidden", "score=judge", "eval=[quick,gsm8k]"),
        ("retrieval=search", "cluster=ray"),
    ],
)
def test_every_key_of_a_run_is_explained(overrides):
    known = {key.name for key in keys() if key.comment}
    parents = {name.rpartition(".")[0] for name in known}
    for name in leaves(composed(*overrides)):
        if name.endswith(("_target_", "_convert_")) or name in ("retrieval", "cluster"):
            continue  # built by them; a group that is left out
        above = [name.rsplit(".", cut)[0] for cut in range(name.count("."))]
        assert name in known or any(part in known for part in above), name
    assert "train" in parents


def test_a_key_is_explained_by_its_comment():
    told = asked_for(["train.prompts_per_step", "--explain"])
    assert told is not None and "train.prompts_per_step: 32   (train=ranking)" in told
    assert "train.epochs" in explain("train") and "objective=dpo" in explain("objective.beta")
    assert explain("reward.weight_decay").count("weight_decay") == 1
    assert explain("train.epochs").count("train=ranking") == 1  # its own, not the optimiser's
    with pytest.raises(UserError, match=r"did you mean 'train.epochs'"):
        explain("train.epoch")


def test_the_page_of_keys_has_all_of_them():
    hook = runpy.run_path(str(DOCS / "figures" / "keys_page.py"))["on_page_markdown"]
    page = hook((DOCS / "keys.md").read_text())
    assert all(f"`{key.name}`" in page for key in keys() if key.comment)
    assert all(line.count(" | ") >= 2 for line in page.splitlines() if line.startswith("| `"))


def test_the_page_of_commands_has_every_tools_help():
    hook = runpy.run_path(str(DOCS / "figures" / "commands_page.py"))["on_page_markdown"]
    page = hook((DOCS / "commands.md").read_text())
    for name in catalogue.TOOLS:
        assert f"## {name}\n" in page and f"python -m rankdistill.{name}" in page
