"""What a run meets on a real machine: a full disk, damaged files, folders it may not write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_kills import Watch, content
from test_store_damage import flip_a_bit, truncate
from tiny_run import TINY, run_here

from rankdistill.app.cli import main
from rankdistill.store import Store

QUICK = [
    "recipe=rrhf", *(a for a in TINY if not a.startswith("warmup.")), "warmup=none",
    "eval.quick.sharpening_control=false", "sample.transformers.batch_size=4", "train.save_steps=1",
]  # fmt: skip


def command(monkeypatch, folder: Path, *arguments: str) -> int:
    """The exit code of a run in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rankdistill", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def one_sentence(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def reused(run_folder: Path) -> dict[str, bool]:
    """Whether a stage's output was found, by its key."""
    stages = json.loads((run_folder / "metrics.json").read_text())["stages"]
    return {stage["key"]: stage["reused"] for stage in stages}


def mount(folder: Path, *options: str) -> bool:
    """Mounts a file system in memory; False where this user may not."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
        capture_output=True,
    )
    return done.returncode == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher) -> Path:
    """The store of a run that met with nothing."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKDISTILL_HOME", str(folder / "home"))
        run_here(patch, folder, *QUICK, f"teacher.path={teacher}")
    return folder / "home"


@pytest.fixture
def copied(finished, tmp_path) -> Store:
    """This test's store, with all that a run makes."""
    shutil.copytree(finished, tmp_path / "home")
    return Store(tmp_path / "home")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, which starts with 64 kB."""
    folder = tmp_path / "disk"
    if not mount(folder, "size=64k"):
        pytest.skip("needs to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_a_run_wherever_it_is_and_space_continues_it(
    monkeypatch, tmp_path, teacher, capsys, small_disk, finished
):
    """Space grows a little from attempt to attempt: so it ends in one stage after the other."""
    arguments = [*QUICK, f"teacher.path={teacher}", "hydra.run.dir=run"]
    monkeypatch.setenv("RANKDISTILL_HOME", str(small_disk))
    watch, ended, size = Watch(Store(small_disk)), set(), 64
    while command(monkeypatch, tmp_path, *arguments) != 0:
        said = one_sentence(capsys)
        assert f"No space for the store {small_disk} on the file system mounted at" in said
        assert "the same command continues" in said
        watch.check()
        ended |= {path.name.split("-")[0] for path in (small_disk / "partial").iterdir()}
        size += 400
        assert size < 5000
        resize = ["mount", "-o", f"remount,size={size}k", str(small_disk)]
        subprocess.run(resize, check=True)
    watch.check()
    assert content(watch.store) == content(Store(finished))
    assert {"student", "train"} <= ended, ended


def test_only_what_is_damaged_is_made_again(monkeypatch, tmp_path, teacher, copied):
    before = content(copied)
    key = next(k for k in before if k.startswith("sample-") and len(before[k]["rows"]) == 9)
    shards = sorted((copied.output_path(key) / "rows").iterdir())
    others = {path: path.stat().st_ino for path in shards if path not in (shards[4], shards[7])}
    assert len(shards) == 9
    truncate(shards[4])
    flip_a_bit(shards[7])
    trained = next(k for k in before if k.startswith("train-"))
    truncate(copied.output_path(trained) / "model" / "model.safetensors")
    found = reused(run_here(monkeypatch, tmp_path, *QUICK, f"teacher.path={teacher}"))
    assert [k for k, was_there in found.items() if not was_there] == [key, trained]
    assert content(copied) == before
    assert {path: path.stat().st_ino for path in others} == others


STAGES = ["prompts", "student", "sample", "score", "rank", "train", "evaluate"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "way"),
    [
        pytest.param("prompts", "rm -r", marks=SLOW),
        ("student", "store remove"),
        pytest.param("sample", "rm -r", marks=SLOW),
        pytest.param("score", "store remove", marks=SLOW),
        ("rank", "rm -r"),
        pytest.param("train", "store remove", marks=SLOW),
    ],
)
def test_an_output_that_is_removed_while_the_next_stage_needs_it(
    stage, way, monkeypatch, tmp_path, teacher, capsys, copied
):
    """In a store whose later stages are to be made: the run ends in one sentence, or needs no more
    of it, and the same command makes what is missing."""
    before, asked = content(copied), [*QUICK, f"teacher.path={teacher}", "hydra.run.dir=run"]
    for key in before:
        if key.partition("-")[0] in STAGES[STAGES.index(stage) + 1 :]:
            assert copied.remove(key)
    found, gone = Store.output, []

    def removed_then(store, name, *arguments, **more):
        output = found(store, name, *arguments, **more)
        if name == stage and not gone:
            gone.append(output.key)
            shutil.rmtree(output.path) if way == "rm -r" else store.remove(output.key)
        return output

    with monkeypatch.context() as patch:
        patch.setattr(Store, "output", removed_then)
        assert command(patch, tmp_path, *asked) == 2
    told = f"error: The output {gone[0]} was removed from the store {copied.root} while it was in "
    assert one_sentence(capsys) == f"{told}use: run the same command again, which makes it anew."
    assert command(monkeypatch, tmp_path, *asked) == 0
    assert content(copied) == before


def test_a_file_in_the_place_of_the_store(monkeypatch, tmp_path, teacher, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "file" / "below"))
    assert command(monkeypatch, tmp_path, *QUICK, f"teacher.path={teacher}") == 2
    assert f"but {tmp_path}/file is a file: set RANKDISTILL_HOME" in one_sentence(capsys)


@pytest.mark.bundled
def test_a_store_that_cannot_be_written_for_the_bundled_model(monkeypatch, tmp_path, capsys):
    """It is the first that is written, before any stage."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "file"))
    assert command(monkeypatch, tmp_path, "recipe=rrhf", "sample=transformers") == 2
    assert "set RANKDISTILL_HOME" in one_sentence(capsys)


def test_a_store_that_may_only_be_read(
    monkeypatch, tmp_path, teacher, capsys, small_disk, finished
):
    """What is complete in it serves; what is not ends in one sentence."""
    monkeypatch.setenv("RANKDISTILL_HOME", str(small_disk))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    shutil.copytree(finished, small_disk, dirs_exist_ok=True)
    arguments = [*QUICK, f"teacher.path={teacher}", "hydra.run.dir=run"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert command(monkeypatch, tmp_path, *arguments) == 0
    assert all(reused(tmp_path / "run").values())
    capsys.readouterr()
    assert command(monkeypatch, tmp_path, *arguments, "seed=1") == 2
    assert f"The store's folder {small_disk} cannot be used by this user" in one_sentence(capsys)


def test_a_run_folder_that_cannot_be_written(monkeypatch, tmp_path, teacher, capsys, copied):
    (tmp_path / "runs").write_text("")
    assert command(monkeypatch, tmp_path, *QUICK, f"teacher.path={teacher}") == 2
    said = one_sentence(capsys)
    assert "The run folder cannot be made" in said and "hydra.run.dir=" in said
    full = OSError(28, "No space left on device", str(tmp_path / "run" / "report.html"))

    def write_report(*_: object) -> None:
        raise full

    monkeypatch.setattr("rankdistill.stages.run_folder.write_report", write_report)
    arguments = [*QUICK, f"teacher.path={teacher}", "hydra.run.dir=run"]
    assert command(monkeypatch, tmp_path, *arguments) == 2
    said = one_sentence(capsys)
    assert f"The folder {tmp_path}/run cannot be written (No space left on device)" in said
