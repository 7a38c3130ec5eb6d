"""The claims about a GPU, tried on a CPU with tiny models: all of it runs, and crashes are told."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from rankdistill.bench.__main__ import main
from rankdistill.bench.gpu import PARTS, Part
from rankdistill.bench.gpu import run as running
from rankdistill.bench.gpu.run import GPUOptions, numbers
from rankdistill.errors import UserError


def tried(tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    found = tmp_path / "gpu.json"
    files = ["--json", str(found), "--log", str(tmp_path / "log")]
    code = main(["gpu", "--model", "tiny", "--device", "cpu", *files, *arguments])
    return code, json.loads(found.read_text())["claims"]


def test_some_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, claims = tried(tmp_path, "--only", "2,8,10-12")
    assert code == 0 and {claim["part"] for claim in claims} == {2, 8, 10, 11, 12}
    assert {claim["verdict"] for claim in claims} == {"holds", "not run"}
    said = capsys.readouterr().out.replace("\n", " ")
    for claim in claims:
        line = " | ".join(claim[name] for name in ("claim", "figure", "target", "verdict"))
        assert f"{claim['part']} {line}" in said


@pytest.mark.slow
def test_all_parts(tmp_path: Path) -> None:
    code, claims = tried(tmp_path)
    assert code == 0 and {claim["part"] for claim in claims} == {part.number for part in PARTS}
    assert {claim["verdict"] for claim in claims} == {"holds", "not run"}


def test_a_part_that_crashes_or_hangs_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (Part(1, "gone", "os:abort", 60), Part(2, "hangs", "time:sleep", 0))
    monkeypatch.setattr(running, "PARTS", parts)
    options = GPUOptions(True, "cpu", (1, 2), tmp_path / "log")
    assert running.run(options, tmp_path / "gpu.json") == 1
    claims = json.loads((tmp_path / "gpu.json").read_text())["claims"]
    assert {claim["verdict"] for claim in claims} == {"refuted"}
    assert "ended with code" in claims[0]["figure"] and claims[1]["figure"] == "no end within 0 s"


def test_every_part_is_there_and_all_but_engines_end_within_a_quarter_of_an_hour() -> None:
    for part in PARTS:
        module, _, name = part.function.partition(":")
        assert callable(getattr(import_module(module), name))
    assert [part.number for part in PARTS] == list(range(1, 16))
    assert sum(part.seconds for part in PARTS[:-1]) <= 900


def test_parts_by_number() -> None:
    assert numbers("1-3,7") == [1, 2, 3, 7] and numbers(None) == list(range(1, 16))
    for wrong, said in (("0-2", "no part 0"), ("x", "names no parts"), ("9-99", "no part 16")):
        with pytest.raises(UserError, match=said):
            numbers(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu"]) == 2 and "add --model tiny" in capsys.readouterr().err
    assert main(["gpu", "--device", "cuda"]) == 2 and "has cpu" in capsys.readouterr().err
