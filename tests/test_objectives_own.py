"""A user's own objective, outside the package: the example of docs/objectives.md as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from ranked_lists import one_list, random_lists

from rankdistill.objectives import Objective

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
