"""kill -9 in the middle of caching the teacher, and in the middle of training from the cache."""

from __future__ import annotations

from pathlib import Path

import forked
import pytest
import torch
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM
from warmup_killed import warm_up

from rankdistill.store.shards import shard_files


@pytest.fixture
def models(tmp_path):
    for name, layers, seed in (("student", 1, 6), ("teacher", 2, 5)):
        build_model(layers=layers, seed=seed).save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path


def killed_where(there: str, models: Path, out: Path) -> None:
    """Starts the warm-up and kills it as soon as a file is there."""
    forked.Forked("warmup_killed", str(models), str(out)).kill_at(out, there)


def test_killed_while_caching_and_while_training(models):
    whole = warm_up(models, models / "whole")
    out = models / "killed"
    killed_where("outputs/000001-*", models, out)
    done = {path: path.stat().st_mtime_ns for path in shard_files(out / "outputs")}
    shards = len(shard_files(models / "whole" / "outputs"))
    assert 2 <= len(done) < shards and not (out / "checkpoints").exists()
    killed_where("checkpoints/*/trainer_state.json", models, out)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())  # not made again
    assert not (out / "model").exists()
    resumed = warm_up(models, out)
    assert resumed["steps"] == whole["steps"] == 6
    a, b = (
        AutoModelForCausalLM.from_pretrained(models / name / "model").state_dict()
        for name in ("whole", "killed")
    )
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-6, msg=name)
