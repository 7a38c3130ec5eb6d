"""What killed processes left is removed by its exact name; all else beside it survives."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ppo_task import trainer

from rankdistill.errors import UserError
from rankdistill.models import convert
from rankdistill.models.files import new_folder
from rankdistill.sample.model_folder import EngineFolder
from rankdistill.store import home
from rankdistill.store.locks import held_at_once
from rankdistill.train.ppo.checkpoint import STATE, Progress, last_complete, save

DEAD = 2**22 + 1
"""More than any process of Linux has."""


WORK = '"years of work"'
"""JSON, as the files are that are looked for."""


def written(path: Path, text: str = WORK) -> Path:
    """A file of the person's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def linked(place: Path, victim: Path) -> Path:
    """A file that a link in `place` leads to the folder of."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    return written(victim / "thesis.txt")


def all_there(files: list[Path]) -> bool:
    return all(file.read_text() == WORK for file in files)


# ----------------------------------------------------------------------------------- PPO's rollouts


def test_a_rollout_removes_weights_of_other_iterations_only(tmp_path):
    policy = tmp_path / "policy"
    near = ["notes", "03", "3.bak", "-3", "1²", "٣"]
    files = [written(policy / name / "file") for name in near]
    files += [written(policy / "7"), linked(policy / "5", tmp_path / "victim")]
    for number in (0, 1, 3, 12):
        written(policy / str(number) / "model.safetensors")
    rollouts = trainer(tmp_path, epochs=1).rollouts
    assert rollouts._exported(2) == policy / "2"
    assert all_there(files)
    left = {path.name for path in policy.iterdir()}
    assert left == {*near, "7", "5", "1", "2"}


def test_weights_are_not_written_through_a_link(tmp_path):
    thesis = linked(tmp_path / "policy" / "2", tmp_path / "victim")
    with pytest.raises(UserError, match="policy/2 is a link"):
        trainer(tmp_path, epochs=1).rollouts._exported(2)
    assert all_there([thesis]) and len(list(thesis.parent.iterdir())) == 1


# -------------------------------------------------------------------------------- PPO's checkpoints


def accelerator() -> Any:
    """Of one process, which has nothing to save."""
    return SimpleNamespace(
        is_main_process=True,
        wait_for_everyone=lambda: None,
        save_state=lambda folder: Path(folder).mkdir(),
    )


def test_only_checkpoints_of_our_form_are_rotated(tmp_path):
    near = ["checkpoint-01", "checkpoint-1.bak", "my-checkpoint-1", "checkpoint-", "checkpoint-1²"]
    files = [written(tmp_path / name / STATE) for name in near]
    files.append(written(tmp_path / "checkpoint-1"))
    for iteration in range(2, 7):
        save(accelerator(), Progress(iteration), tmp_path)
    assert all_there(files)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*near, "checkpoint-1", "checkpoint-5", "checkpoint-6"}


def test_a_checkpoint_that_is_a_link_is_read_and_stays(tmp_path):
    """Somebody moved it to a larger disk."""
    thesis = linked(tmp_path / "run" / "checkpoint-1", tmp_path / "victim")
    written(thesis.parent / STATE)
    assert last_complete(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    for iteration in range(2, 6):
        save(accelerator(), Progress(iteration), tmp_path / "run")
    assert all_there([thesis]) and (tmp_path / "run" / "checkpoint-1").is_symlink()


def test_a_checkpoint_is_not_written_through_a_link(tmp_path):
    thesis = linked(tmp_path / "run" / "checkpoint-1", tmp_path / "victim")
    with pytest.raises(UserError, match="checkpoint-1 is a link"):
        save(accelerator(), Progress(1), tmp_path / "run")
    assert all_there([thesis]) and len(list(thesis.parent.iterdir())) == 1


# ----------------------------------------------------------------------------- models in the making


def test_a_conversion_removes_what_killed_ones_left_only(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_convert", lambda file, to: written(to / "config.json"))
    to = tmp_path / "models" / "a[b]"
    near = [".a[b].txt", ".a[b].1.bak", ".a[b].", "a[b].1", ".ab.1", ".a[b].1²"]
    files = [written(to.parent / name / "file") for name in near]
    files += [written(to.parent / ".a[b].2"), linked(to.parent / ".a[b].3", tmp_path / "victim")]
    left = written(to.parent / ".a[b].4711" / "model.safetensors")
    assert convert.convert(tmp_path / "a.gguf", to) == to
    assert all_there(files) and not left.parent.exists()


def test_a_model_is_not_made_through_a_link(tmp_path):
    thesis = linked(tmp_path / f".model.{os.getpid()}", tmp_path / "victim")
    with pytest.raises(UserError, match="is a link"), new_folder(tmp_path / "model"):
        pytest.fail("made")
    assert all_there([thesis])


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_that_is_called_like_one_in_the_making_stays(tmp_path, fails):
    mine = [written(tmp_path / f".model.{os.getpid()}{n}" / "thesis.txt") for n in ("", "0")]
    with suppress(KeyboardInterrupt), new_folder(tmp_path / "model") as partial:
        written(partial / "weights")
        if fails:
            raise KeyboardInterrupt
    assert all_there(mine)
    left = {path.name for path in tmp_path.iterdir()} - {file.parent.name for file in mine}
    assert left == (set() if fails else {"model"})


# ----------------------------------------------------------------------------------- vLLM's weights


def test_vllm_removes_what_dead_processes_left_only(tmp_path):
    place, host = home() / "vllm", socket.gethostname()
    near = [
        f"{host}@{DEAD}", f"{host}@{DEAD}-", f"{host}@{DEAD}-mine", f"{host}@{DEAD}-abcd_123.bak",
        f"{host}@mine-abcd_123", f"{host}@²-abcd_123", f"x{host}@{DEAD}-abcd_123",
        f"{host}@{os.getpid()}-abcd_123",
    ]  # fmt: skip
    files = [written(place / name / "file") for name in near]
    files.append(linked(place / f"{host}@{DEAD}-abcd_124", tmp_path / "victim"))
    left = written(place / f"{host}@{DEAD}-abcd_125" / "weights" / "model.safetensors")
    made = EngineFolder()
    assert all_there(files) and not left.parents[1].exists() and made.path.is_dir()
    made.close()
    assert not made.path.exists() and not list(place.glob(f".{made.path.name}*"))


def test_whose_folder_an_engine_has_is_told_by_a_lock():
    living = EngineFolder()
    # A process of another container has a number that is dead here, and another's may live.
    place, host = living.path.parent, socket.gethostname()
    elsewhere, left = place / f"{host}@{DEAD}-abcd_126", place / f"{host}@{os.getpid()}-abcd_127"
    for folder in (elsewhere, left):
        written(folder / "weights")
        folder.with_name(f".{folder.name}.lock").touch()
    with held_at_once(elsewhere.with_name(f".{elsewhere.name}.lock")):
        other = EngineFolder()
        assert living.path.is_dir() and elsewhere.is_dir() and not left.exists()
    other.close()
    EngineFolder().close()
    assert living.path.is_dir() and not elsewhere.exists()
    living.close()
