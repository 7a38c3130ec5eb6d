"""`name=`, the list of runs, and no folder of a command that was refused."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from report_rows import run_report, verified_report
from test_sweep import swept
from tiny_run import TINY, refusal

from rankdistill.report import write_report
from rankdistill.runs.__main__ import main
from rankdistill.runs.listing import list_runs
from rankdistill.stages import pipeline


def begun(folder: Path, *, seconds_ago: float) -> Path:
    """A run folder as Hydra begins it."""
    (folder / ".hydra").mkdir(parents=True)
    overrides = folder / ".hydra" / "overrides.yaml"
    overrides.write_text("- recipe=rrhf\n")
    then = time.time() - seconds_ago
    os.utime(overrides, (then, then))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write_report(run_report(), begun(tmp_path / "runs" / "rrhf", seconds_ago=300))
    write_report(verified_report(), begun(tmp_path / "multirun" / "sweep" / "dpo", seconds_ago=300))
    failed = begun(tmp_path / "multirun" / "sweep" / "pro", seconds_ago=7200)
    (failed / "failure.txt").write_text("No space.\n")
    os.utime(failed / "failure.txt", (time.time() - 3600,) * 2)
    begun(tmp_path / "runs" / "mine", seconds_ago=2 * 86400)
    again = begun(tmp_path / "runs" / "again", seconds_ago=-60)  # started again since it finished
    write_report(run_report(), again)
    (tmp_path / "runs" / "rrhf" / "model").mkdir()
    return tmp_path


def test_every_run_has_its_state_and_what_was_gained(folders, monkeypatch):
    monkeypatch.chdir(folders)
    found = {run.folder.name: run for run in list_runs([Path("runs"), Path("multirun")])}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "rrhf": "finished", "dpo": "finished", "pro": "failed", "mine": "not finished",
        "again": "not finished",
    }  # fmt: skip
    assert found["rrhf"].trained and found["rrhf"].lead.startswith("+0.41")
    assert found["dpo"].lead.endswith("] points") and "[" in found["rrhf"].lead
    assert found["mine"].lead == "" and 1.9 < found["mine"].age_seconds / 86400 < 2.1


def test_the_list_has_whole_names_the_newest_first(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[-1].split()[0] == "runs/mine"
    assert any(line.startswith("multirun/sweep/dpo") for line in lines)
    assert main(["--json", "runs"]) == 0
    assert {Path(run["folder"]).name for run in json.loads(capsys.readouterr().out)} == {
        "rrhf", "mine", "again",
    }  # fmt: skip
    assert main([str(folders / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    monkeypatch.chdir(folders / "runs" / "rrhf" / "model")
    assert main([]) == 0 and "No runs here" in capsys.readouterr().out


def test_where_there_is_no_room_a_name_has_a_line_of_its_own(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")  # rich gives a dumb one 80 columns
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["multirun"]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 60
    assert lines[0] == "multirun/sweep/dpo" and lines[1].startswith("  finished   ")
    assert lines[1].split("   ")[2].endswith("] points")


def test_a_refused_command_leaves_no_folder(monkeypatch, capsys, tmp_path):
    refusal(monkeypatch, capsys, tmp_path, *TINY, "teacher.path=./nowhere")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []
    begun(tmp_path / "run", seconds_ago=0)
    refusal(monkeypatch, capsys, tmp_path, *TINY, "teacher.path=./nowhere")
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()


def test_a_sweep_that_is_named_has_its_points_below(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "run", lambda config, **_: None)
    swept(monkeypatch, tmp_path, "recipe=rrhf", "seed=0,1", "name=mine")
    assert {path.name for path in (tmp_path / "multirun" / "mine").iterdir()} >= {
        "rrhf,seed=0", "rrhf,seed=1",
    }  # fmt: skip
