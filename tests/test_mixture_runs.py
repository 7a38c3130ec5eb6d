"""Whole runs on several sets: their numbers, alone and in two processes, killed and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import pytest
from test_mixture import load, of, written
from tiny_run import TINY, composed

from rankdistill.stages import settings
from rankdistill.store import Store

WHOLE = [
    "recipe=likelihood", *(a for a in TINY if not a.startswith(("prompts.limit.train", "warmup."))),
    "warmup=none", "objective=dpo", "train.save_steps=1", "train.prompts_per_step=4",
    "train.epochs=2", "sample.responses_per_prompt=2", "eval.quick.sharpening_control=false",
    "sample.transformers.batch_size=4", "hydra.run.dir=run",
]  # fmt: skip
STAGES = ("prompts", "sample", "score", "rank", "reference", "train")


def place(folder: Path) -> dict[str, Any]:
    """Where a command runs, with a store of its own."""
    folder.mkdir(exist_ok=True)
    home = str(folder / "home")
    return {"cwd": folder, "RANKDISTILL_HOME": home, "CUDA_VISIBLE_DEVICES": ""}


def metrics(folder: Path) -> Any:
    return json.loads((folder / "run" / "metrics.json").read_text())


def content(store: Store, stage: str) -> dict[str, Any]:
    """The rows and the checksums of the weights of every finished output of a stage."""
    found: dict[str, Any] = {}
    for folder in sorted((store.root / "outputs").glob(f"{stage}-*")):
        output = store.find(folder.name)
        assert output is not None
        files = output.manifest["files"]
        weights = {name: files[name]["sha256"] for name in files if name.endswith(".safetensors")}
        found[folder.name] = (output.rows(), weights)
    return found


@pytest.fixture
def sets(tmp_path) -> tuple[str, str]:
    return written(tmp_path, "a", 40), written(tmp_path, "b", 40)


def test_one_set_alone_is_the_run_without_mixing_bit_for_bit(tmp_path, teacher, sets):
    one, listed = tmp_path / "one", tmp_path / "listed"
    limit = "prompts.limit.train=8"
    for folder, path in ((one, sets[0]), (listed, f"[{sets[0]}]")):
        done = forked.run(
            "rankdistill", *WHOLE, limit, f"teacher.path={teacher}", f"prompts.path={path}",
            **place(folder),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    for stage in STAGES:
        ours, theirs = (content(Store(folder / "home"), stage) for folder in (one, listed))
        assert ours == theirs and ours, stage


def test_numbers_are_exact_in_two_processes_that_are_killed_as_in_one(
    tmp_path, teacher, tokenizer, sets
):
    a, b = sets
    arguments = [*WHOLE, f"teacher.path={teacher}", f"prompts.path={{{a}: 9, {b}: 0.25}}"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = forked.run("rankdistill", *arguments, **place(one))
    assert alone.returncode == 0, alone.stderr[-2000:]
    for pattern in ("sample-*/files/rows/*", "train-*/scratch/checkpoints/*/trainer_state.json"):
        first, second = forked.launched("rankdistill", *arguments, **place(two))
        try:
            first.kill_at(two / "home" / "partial", pattern)
        finally:
            second.kill()
            second.wait()
    both = forked.together("rankdistill", *arguments, **place(two))
    assert [done.returncode for done in both] == [0, 0], both[0].stderr[-2000:]
    for stage in STAGES[:-1]:
        ours, theirs = (content(Store(folder / "home"), stage) for folder in (one, two))
        assert ours == theirs and ours, stage
    [(rows, _)] = content(Store(two / "home"), "prompts").values()
    splits = vars(settings.build(composed(*WHOLE[:-1])).prompts.splits)
    trained = load(b, tokenizer, splits=splits, max_prompt_tokens=200)[1]["train"]
    assert of(rows, "train") == {"a": 9, "b": round(trained / 4)}
    ours, theirs = (metrics(folder)["training_history"] for folder in (one, two))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)
