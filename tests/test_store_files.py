"""Files of the store: what is on the disk when, and when one is read again."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from folders import full_disk, written
from test_store import rows_of

from rankdistill.store import Partial, Store, inventory
from rankdistill.store import shards as shards_module
from rankdistill.store.files import (
    append_line,
    files_of,
    keep_log,
    link,
    sync_and_hash,
    write_atomically,
)
from rankdistill.store.inventory import entries


@pytest.mark.parametrize(
    ("before", "after"), [("", "new\n"), ("whole\n", "whole\nnew\n"), ("ha", "ha\nnew\n")]
)
@pytest.mark.filterwarnings("error")
def test_a_line_is_added_after_one_that_a_crash_left_half(before, after, tmp_path):
    (tmp_path / "journal").write_text(before)
    append_line(tmp_path / "journal", "new")
    assert (tmp_path / "journal").read_text() == after


def test_a_line_that_the_disk_has_no_room_for_leaves_no_half(tmp_path):
    (tmp_path / "journal").write_text("whole\n")
    with full_disk(8), pytest.raises(OSError, match=r"No space left|File too large"):
        append_line(tmp_path / "journal", "another")
    assert (tmp_path / "journal").read_text() == "whole\n"


def test_a_log_that_is_kept_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "log").write_text("traceback")
    kept = keep_log(tmp_path / "log", "run-")
    assert kept.parent == tmp_path and kept.name.startswith("run-") and kept.suffix == ".log"
    assert kept.read_text() == "traceback" and kept.stat().st_mode & 0o777 == 0o600


def test_files_of_a_folder_come_in_one_order_on_every_file_system(tmp_path):
    """A manifest lists them so."""
    for folder in "gbheacfd":
        for name in "2013":
            written(tmp_path / folder / name)
    expected = [tmp_path / folder / name for folder in "abcdefgh" for name in "0123"]
    assert list(files_of(tmp_path)) == expected


def test_the_list_of_outputs_looks_at_each_file():
    def make(partial: Partial) -> None:
        (partial.path / "weights.bin").write_bytes(b"weights")

    output = Store().output("train", {}, make)
    (before,) = entries(Store())
    (output.path / "weights.bin").write_bytes(b"more weights")
    (longer,) = entries(Store())
    (output.path / "weights.bin").unlink()
    (gone,) = entries(Store())
    assert (longer.size, gone.size) == (before.size + 5, before.size - 7)
    assert (longer.files, gone.files) == (before.files, before.files - 1)


def test_what_goes_while_the_list_looks_has_no_age(monkeypatch):
    Store().partial_path("train-0123456789abcdef").mkdir(parents=True)
    monkeypatch.setattr(inventory, "_modified", lambda path: None)
    assert [entry.age_seconds for entry in entries(Store())] == [0.0]


@pytest.fixture
def flushed(monkeypatch) -> list[object]:
    """The inodes of what was flushed to the disk, and what was renamed, in order."""
    found: list[object] = []
    replace = os.replace

    def renamed(source: Path, target: Path) -> None:
        found.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda number: found.append(os.fstat(number).st_ino))
    monkeypatch.setattr(os, "replace", renamed)
    return found


def test_what_no_loss_of_power_may_take_is_on_the_disk_before_its_name_and_then_its_name(
    tmp_path, flushed
):
    write_atomically(tmp_path / "file", b"data")
    file, folder = ((tmp_path / name).stat().st_ino for name in ("file", ""))
    assert flushed == [file, "renamed", folder]
    append_line(tmp_path / "file", "more")
    assert sync_and_hash(tmp_path / "file")["size"] == 10
    assert flushed[3:] == [file, file]
    write_atomically(tmp_path / "file", b"data", durable=False)
    assert flushed[5:] == ["renamed"]


def test_of_quick_appends_the_first_and_one_a_second_are_on_the_disk(
    tmp_path, flushed, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(shards_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    shards = Partial(tmp_path, tmp_path).shards()
    counts = []
    for clock[0] in (0.1, 0.5, 1.1, 2.0, 2.2):
        shards.append(rows_of(0))
        counts.append(len(flushed) - flushed.count("renamed"))
    assert counts == [2, 2, 4, 4, 6]


def test_a_shard_is_read_again_where_it_may_have_changed(tmp_path, monkeypatch):
    reads: list[object] = []

    def digest_of(file: IO[bytes], name: str) -> object:
        reads.append(file.name)
        return hashlib.file_digest(file, name)

    now = [time.time_ns()]
    monkeypatch.setattr(shards_module, "hashlib", SimpleNamespace(file_digest=digest_of))
    monkeypatch.setattr(shards_module, "time", SimpleNamespace(time_ns=lambda: now[0]))
    shard = tmp_path / f"000000-{hashlib.sha256(b'rows').hexdigest()[:16]}.jsonl"
    shard.write_bytes(b"rows")
    os.utime(shard, (0, 0))  # as a copy that keeps the times: when it was changed is told by ctime
    assert [shards_module.is_whole(shard) for _ in range(2)] == [True, True] and len(reads) == 2
    now[0] += 10**9  # a change from now on would show in its times
    assert [shards_module.is_whole(shard) for _ in range(3)] == [True] * 3 and len(reads) == 3
    shard.write_bytes(b"ROWS")
    now[0] += 10**9
    assert [shards_module.is_whole(shard) for _ in range(2)] == [False, False] and len(reads) == 5
    assert not shards_module.is_whole(tmp_path)  # it has no shard's name
    with pytest.raises(ValueError, match="is no shard"):
        shards_module.numbers_of(tmp_path)


@pytest.mark.parametrize("apart", [False, True])
def test_a_link_to_another_file_system_is_a_copy(apart, tmp_path, monkeypatch):
    def link_of_two(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if apart:
        monkeypatch.setattr(os, "link", link_of_two)
    (tmp_path / "source").write_text("weights")
    link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "weights"
    assert (tmp_path / "target").samefile(tmp_path / "source") != apart
