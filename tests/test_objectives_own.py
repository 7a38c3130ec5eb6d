"""A user's own objective, outside the package: the example of docs/objectives.md as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from ranked_lists import one_list, random_lists

from rankdistill.errors import UserError
from rankdistill.objectives import Candidates, Objective, ObjectiveOutput
from rankdistill.objectives.checks import try_objective

PAGE = Path(__file__).parents[1] / "docs" / "objectives.md"
CONF = Path(__file__).parents[1] / "conf" / "objective"


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """The page's files, written where their first line says."""
    text = PAGE.read_text(encoding="utf-8")
    for language in ("python", "yaml"):
        block = re.search(rf"```{language}\n# (\S+)\n(.*?)```", text, re.DOTALL)
        assert block is not None
        path = tmp_path / block[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block[2], encoding="utf-8")
    return tmp_path


def test_it_is_built_from_its_target(user_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(user_folder))
    options = OmegaConf.load(user_folder / "my_conf" / "objective" / "squared_hinge.yaml")
    objective = instantiate(options, margin=2.0)
    assert isinstance(objective, Objective)
    pair = one_list([-10.0, -4.0], [1.0, 0.0], lengths=[5, 8])
    assert objective(pair).loss.item() == (2 - (-2 + 0.5)) ** 2
    assert objective(random_lists()).loss.isfinite().all()


def test_it_is_an_option_of_the_command(user_folder: Path):
    command = ["--config-dir", "my_conf", "recipe=rrhf", "objective=squared_hinge"]
    printed = subprocess.run(
        [sys.executable, "-m", "rankdistill", *command, "objective.margin=0.2", "--cfg", "job"],
        cwd=user_folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "_target_: my_objectives.SquaredHinge\n  margin: 0.2" in printed


class Mine:
    """An objective whose loss is a function of the candidates."""

    def __init__(self, loss: Any, needs_reference: bool = False) -> None:
        self.loss, self.needs_reference = loss, needs_reference

    def __call__(self, candidates: Candidates) -> Any:
        found = self.loss(candidates)
        return ObjectiveOutput(found, {}) if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("file", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_objective_passes_its_trial(file: str):
    try_objective(instantiate(OmegaConf.load(CONF / f"{file}.yaml")))


@pytest.mark.parametrize("needs_reference", [False, True])
def test_a_trial_has_lists_that_a_right_objective_cannot_fail_on(needs_reference: bool):
    """Ranked as scored, without a tie, all real, with a gradient; a reference if one is asked."""
    tried: list[Candidates] = []

    def loss(candidates: Candidates) -> torch.Tensor:
        tried.append(candidates)
        return candidates.logps.sum(dim=1)

    try_objective(Mine(loss, needs_reference))
    (lists,) = tried
    assert lists.logps.shape == (2, 3) and lists.logps.requires_grad and (lists.logps < 0).all()
    assert lists.mask.all() and (lists.lengths > 0).all()
    assert lists.lengths.dtype == lists.ranks.dtype == torch.int64
    assert torch.equal(lists.ranks, lists.scores.argsort(dim=1, descending=True).argsort(dim=1))
    assert all(len(set(row)) == 3 for row in lists.scores.tolist())
    assert (lists.reference_logps is not None) == needs_reference
    if needs_reference:
        assert lists.reference_logps.shape == (2, 3) and not lists.reference_logps.requires_grad
        assert not torch.equal(lists.reference_logps, lists.logps)


def _raise(error: Exception) -> Any:
    def loss(_: Candidates) -> Any:
        raise error

    return loss


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (len, "is no objective: it needs `__call__"),
        (
            Mine(lambda c: c.logps),
            r"Mine returned a loss of shape \(2, 3\) for 2 prompts: return",
        ),
        (Mine(lambda c: c.logps.sum()), r"Mine returned a loss of shape \(\) for 2 prompts"),
        (Mine(lambda c: 1.0), "Mine returned float for 2 prompts"),
        (
            # A loss of the right shape in something else, which the trainer could not read.
            Mine(lambda c: SimpleNamespace(loss=c.logps.sum(dim=1))),
            r"Mine returned a loss of shape \(2,\) for 2 prompts: return an ObjectiveOutput",
        ),
        (
            Mine(lambda c: c.logps - c.reference_logps),
            r"Mine fails on a ranking of 3 responses \(without reference_logps\): TypeError: uns",
        ),
        (
            Mine(_raise(ValueError("first\nsecond")), needs_reference=True),
            r"Mine fails on a ranking of 3 responses: ValueError: first$",
        ),
        (Mine(_raise(ValueError())), r"reference_logps\): ValueError: no message$"),
        (Mine(_raise(UserError("of its own"))), "^of its own$"),
    ],
)
def test_an_objective_that_cannot_work_is_told_what_is_wrong(objective: Any, message: str):
    with pytest.raises(UserError, match=message):
        try_objective(objective)


def test_the_page_names_every_objective_with_its_learning_rate():
    text = PAGE.read_text(encoding="utf-8")
    for path in CONF.glob("*.yaml"):
        objective = instantiate(OmegaConf.load(path))
        row = re.search(
            rf"^\| `{path.stem}` \| `{type(objective).__name__}` .*$", text, re.MULTILINE
        )
        assert row is not None, path.stem
        rate = f"{objective.learning_rate:.0e}".replace("e-0", "e-")
        assert row[0].endswith(f"| {rate} |"), path.stem
