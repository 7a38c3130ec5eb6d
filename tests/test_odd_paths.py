"""Spaces, quotes, braces, other scripts and 255 bytes in the name of every path."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from compare_rows import write_run
from export_runs import finished_run
from tiny_run import TINY

from rankdistill.app.cli import main as run
from rankdistill.compare.__main__ import main as compare
from rankdistill.export.__main__ import main as export
from rankdistill.rank.__main__ import main as rank
from rankdistill.report.__main__ import main as report
from rankdistill.store.__main__ import main as store


def odd(suffix: str = "") -> str:
    """A name of 255 bytes."""
    begin = "größe 'q' \"d\" $HOME {x} [1] a=b, 漢 \U0001f600 "
    return begin + "n" * (255 - len((begin + suffix).encode())) + suffix


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / odd()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RANKDISTILL_HOME", str(folder / odd("-home")))
    return folder


def quoted(path: Path | str) -> str:
    """As Hydra's grammar wants it."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def test_a_whole_run(place, teacher, monkeypatch, capsys):
    shutil.copytree(teacher, place / odd("-teacher"))
    rows = [{"prompt": f"Say {number}."} for number in range(40)]
    prompts = place / odd(".jsonl")
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["recipe=rrhf", *TINY, "prompts=augmented", "prompts.augment.requests=8"]
    given.append("eval.quick.sharpening_control=false")
    paths = {
        "teacher.path": place / odd("-teacher"), "prompts.path": prompts,
        "hydra.run.dir": odd("-run"),
    }  # fmt: skip
    given += [f"{key}={quoted(path)}" for key, path in paths.items()]
    monkeypatch.setattr(sys, "argv", ["rankdistill", *given])
    run()
    assert (place / odd("-run") / "report.html").is_file()
    assert store([]) == 0 and store(["verify"]) == 0
    assert " 0 damaged" in capsys.readouterr().out
    assert sorted(os.listdir(place)) == sorted(
        [odd("-home"), odd("-teacher"), odd("-run"), odd(".jsonl")]
    )


def test_the_tools(place):
    made = finished_run(place / odd("-run"))
    two = [write_run(place / odd(f"-{name}"), name, prompts=4) for name in ("RRHF", "PRO")]
    assert report([str(made)]) == 0
    assert export([str(made), "--to", odd("-export")]) == 0
    assert compare([*map(str, two), "--to", odd("-comparison")]) == 0
    assert rank([str(made), odd(".parquet")]) == 0
    for name in ("-export/README.md", "-comparison/report.html", ".parquet"):
        suffix, _, inner = name.partition("/")
        assert (place / odd(suffix) / inner).is_file(), name
