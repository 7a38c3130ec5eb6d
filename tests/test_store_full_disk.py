"""A full disk is told in one sentence, and costs nothing that was made."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import pytest
from test_store import rows_of
from test_store_faults import run

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store, key_of
from rankdistill.store.faults import explained, writing
from rankdistill.store.shards import TENSORS, write_shard

ON_A_FULL_DISK = """
import resource
from rankdistill.errors import UserError
from rankdistill.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
def make(partial):
    shards = partial.shards()
    for number in range(len(shards.rows()), 10):
        shards.append([{"number": number, "text": "x" * 300 * number}])
try:
    print(len(Store().output("sample", {}, make).rows()))
except UserError as error:
    print(error)
"""


def test_disk_full_says_what_is_kept_and_the_same_command_continues(tmp_path):
    done = run(ON_A_FULL_DISK.replace("BYTES", "2000"), where=tmp_path)
    key = key_of("sample", {})
    sentence = done.stdout.strip()
    assert done.returncode == 0 and "\n" not in sentence, done.stderr
    assert sentence.startswith(f"No space for the store {tmp_path} on the file system mounted at /")
    assert (
        f"{key} keeps 7 rows (7 shards, " in sentence and f"partial/{key}, and the same" in sentence
    )
    assert "File too large" in sentence
    partial = Partial(Store(tmp_path).partial_path(key) / "files", tmp_path)
    assert [row["number"] for row in partial.shards().rows()] == list(range(7))
    assert not list(tmp_path.rglob(".tmp-*"))
    done = run(ON_A_FULL_DISK.replace("BYTES", str(1 << 20)), where=tmp_path)
    assert done.stdout.strip() == "10", done.stderr


def test_disk_full_counts_rows_and_takes_no_other_file_for_them():
    def make(partial: Partial) -> None:
        partial.shards().append(rows_of(0, 1))
        states = partial.path / "states"
        states.mkdir()
        write_shard(states, "000000", b"no rows", TENSORS)
        (states / "notes.jsonl").write_text('{"number": 0}\n')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"keeps 2 rows \(1 shard, "):
        Store().output("sample", {}, make)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(122, "Disk quota exceeded"),
    ],
)
def test_disk_full_is_recognised_as_libraries_say_it(error):
    def make(partial: Partial) -> None:
        try:
            raise error
        except (OSError, RuntimeError) as cause:
            raise RuntimeError("could not save the checkpoint") from cause

    with pytest.raises(UserError, match="No space for the store"):
        Store().output("train", {}, make)


def test_disk_full_is_recognised_when_torch_has_lost_the_reason(monkeypatch):
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    def make(partial: Partial) -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        Store().output("train", {}, make)
    assert raised.value is error
    full = SimpleNamespace(total=10**9, used=10**9, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    with pytest.raises(UserError, match=r"0 B of 1 GB free\): train-"):
        Store().output("train", {}, make)


def test_a_full_disk_is_told_by_what_it_led_to(tmp_path):
    def led_to(error: str, *, hidden: bool) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if hidden:
                raise ValueError(error) from None
            raise ValueError(error)  # noqa: B904

    full = rf"'{tmp_path}' cannot be written \(No space left on device\): make room\."
    with pytest.raises(UserError, match=full), writing(tmp_path, "make room"):
        led_to("no table", hidden=False)
    with pytest.raises(ValueError, match="a mistake"), writing(tmp_path, "make room"):
        led_to("a mistake", hidden=True)
    with pytest.raises(UserError, match="told already"), writing(tmp_path, "make room"):
        try:
            led_to("no table", hidden=False)
        except ValueError as error:
            raise UserError("told already") from error


def test_a_full_disk_outside_of_a_stage_has_taken_nothing(tmp_path):
    told = r"free\): nothing that was made is lost, and the same command continues"
    with pytest.raises(UserError, match=told), explained(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_fault_of_the_first_file_of_a_folder_is_told(tmp_path):
    """`shutil.copytree` raises a list of (from, to, fault), without a number."""
    faults = [("a", "b", "[Errno 5] Input/output error"), ("c", "d", "another")]
    told = rf"'{tmp_path}' cannot be written \(\[Errno 5\] Input/output error\): look there\."
    with pytest.raises(UserError, match=told), writing(tmp_path, "look there"):
        raise shutil.Error(faults)
    with pytest.raises(OSError, match=r"^$"), writing(tmp_path, "look there"):
        raise OSError
