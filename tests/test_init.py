"""A project as `python -m rankdistill.init` writes it runs as it is."""

from __future__ import annotations

import json
import sys

import pytest
from tiny_run import TINY, run_here

from rankdistill.init.__main__ import main
from rankdistill.plan.compose import composed as planned


@pytest.fixture
def project(tmp_path, monkeypatch, capsys) -> str:
    """The name of a project in the working directory; what it imports is forgotten again."""
    path = list(sys.path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(tmp_path)
    assert main(["my project"]) == 0
    assert "--config-dir 'my project' recipe=mine" in capsys.readouterr().out
    yield "my project"
    sys.path[:] = path
    sys.modules.pop("my_parts", None)


def test_it_runs_as_it_is(project, tmp_path, monkeypatch, teacher):
    small = [part for part in TINY if part.split("=")[0] not in ("prompts", "score")]
    run = run_here(
        monkeypatch, tmp_path, "recipe=mine", "--config-dir", project, *small,
        f"teacher.path={teacher}", "eval.quick.sharpening_control=false",
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["judge"]["name"] == "near_length" and metrics["title"].startswith("Hinge")
    # It asks no teacher, so none is said to have ranked.
    assert metrics["ranked_by"] == "near_length" and metrics["title"].endswith("by near_length")
    config = (run / "config.yaml").read_text()
    assert "my project/prompts.jsonl" in config and "_target_: my_parts.Hinge" in config


def test_it_can_be_planned(project, tmp_path):
    settings, _, _ = planned(["recipe=mine"], tmp_path / project)
    assert type(settings.objective).__name__ == "Hinge" and settings.prompts.path.endswith("jsonl")


def test_nothing_is_replaced(project, tmp_path, capsys):
    before = (tmp_path / project / "README.md").read_text()
    assert "FOLDER" not in before and f"--config-dir {project} recipe=mine" in before
    assert main([project]) == 2 and "is not replaced" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["file"]) == 2 and main(["file/below"]) == 2
    assert (tmp_path / project / "README.md").read_text() == before
