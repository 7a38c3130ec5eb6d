"""A hostile environment: no permission, no space, no locks, and what stands in the way."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_store import make_nine, rows_of

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store, key_of
from rankdistill.store.faults import explained, writable
from rankdistill.store.inputs import remembered_sha256
from rankdistill.store.inventory import entries
from rankdistill.store.locks import held_at_once, is_held


def test_a_clock_that_goes_backwards_breaks_nothing(monkeypatch):
    real = time.time
    moments = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 1000.0 * next(moments))
    dates = iter(["2031-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"])
    for module in ("attempt", "outputs"):
        monkeypatch.setattr(f"rankdistill.store.{module}.utc_now", lambda: next(dates))
    output = Store().output("sample", {}, make_nine)
    assert output.manifest["finished"] < output.manifest["started"]
    assert output.manifest["seconds"] >= 0
    assert Store().output("sample", {}, lambda partial: pytest.fail("made twice")) == output


AS_NOBODY = """
import os, sys, filelock
from pathlib import Path
from rankdistill.errors import UserError
from rankdistill.store import Store
from rankdistill.store.__main__ import main
if os.getuid() == 0:
    os.setuid(65534)
for act in (lambda: Store().output("sample", {}, lambda p: None), lambda: print("list", main([]))):
    try:
        act()
        print("passed")
    except UserError as error:
        print(error)
"""


def run(code: str, *, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "RANKDISTILL_HOME": str(where), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )


def test_no_permission_is_one_sentence():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        root.mkdir()
        os.chmod(folder, 0o755)
        os.chmod(root, 0o555)
        done = run(AS_NOBODY, where=root)
        assert done.returncode == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert first.startswith(f"The store's folder {root} cannot be used by this user")
        assert "RANKDISTILL_HOME" in first
        assert rest == [f"No outputs in {root}.", "list 0", "passed"]
        os.chmod(root, 0o755)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_of_the_store_that_may_not_be_used_is_named(code, tmp_path):
    place = tmp_path / "outputs" / "train-0"
    told = rf"folder {tmp_path} cannot be used by this user \({os.strerror(code)}: {place}\)"
    with pytest.raises(UserError, match=told), explained(tmp_path):
        raise OSError(code, os.strerror(code), str(place))
    for elsewhere in ("/models/x", None):
        with pytest.raises(OSError, match=os.strerror(code)), explained(tmp_path):
            raise OSError(code, os.strerror(code), elsewhere)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.ENOTDIR])
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(code, tmp_path):
    told = rf"folder {tmp_path} cannot be written \({os.strerror(code)}\): make room\."
    with pytest.raises(UserError, match=told), writable(tmp_path, "make room"):
        raise OSError(code, os.strerror(code), str(tmp_path / "file"))
    for other in ((code, "/models/x"), (errno.EIO, str(tmp_path / "file"))):
        with pytest.raises(OSError, match=other[1]), writable(tmp_path, "make room"):
            raise OSError(other[0], os.strerror(other[0]), other[1])


def test_a_finished_output_is_found_without_write_permission():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        Store(root).output("sample", {}, make_nine)
        os.chmod(folder, 0o755)
        done = run(AS_NOBODY, where=root)
        assert done.stdout.splitlines()[0] == "passed", done.stdout + done.stderr


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"but {tmp_path}/file is a file"):
        Store(tmp_path / "file").output("sample", {}, make_nine)
    with pytest.raises(UserError, match=f"but {tmp_path}/file is a file"):
        Store(tmp_path / "file" / "below").output("sample", {}, make_nine)


@pytest.mark.parametrize(
    ("place", "put"),
    [
        *((name, Path.touch) for name in ("locks", "partial", "outputs")),
        *((f"{name}/KEY", Path.touch) for name in ("partial", "outputs")),
        ("partial/KEY/files/rows", Path.touch),
        ("locks/KEY.lock", Path.mkdir),
        ("locks/KEY.lock", lambda lock: lock.symlink_to("/dev/null")),
        ("partial/KEY/attempt.json", Path.mkdir),
        ("outputs/KEY", os.mkfifo),
    ],
)
def test_what_stands_in_the_place_of_one_of_ours_is_named(place, put):
    store, key = Store(), key_of("sample", {})
    path = store.root / place.replace("KEY", key)
    path.parent.mkdir(parents=True)
    put(path)
    with pytest.raises(UserError, match=rf"^{path} is not what the store has .*: move it away"):
        store.output("sample", {}, make_nine)
    assert os.path.lexists(path)


def nest(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, nest])
@pytest.mark.timeout(10)
def test_what_has_no_end_is_not_read_for_ever(put):
    store = Store()
    output = store.output("sample", {}, make_nine)
    (store.root / "digests").mkdir()
    file = store.root / "prompts.jsonl"
    file.write_text("{}")
    remembered_sha256(file)
    (memo,) = (store.root / "digests").iterdir()
    for path in (output.path / "manifest.json", memo, store.root / ".inventory.json"):
        path.unlink(missing_ok=True)
        put(path)
    assert len(entries(store)) == 1
    assert remembered_sha256(file) == hashlib.sha256(b"{}").hexdigest()
    assert store.output("sample", {}, make_nine).manifest["counts"] == {"made": 0}
    (path := store.partial_path(key_of("train", {})) / "attempt.json").parent.mkdir(parents=True)
    os.mkfifo(path)
    store.output("train", {}, make_nine)


def test_a_mistake_inside_a_stage_is_not_taken_for_the_stores(caplog):
    caplog.set_level(logging.INFO)
    for error in (UserError("no EOS"), PermissionError(13, "Permission denied", "/models/x")):
        with pytest.raises(type(error)) as raised:
            Store().output("train", {}, lambda p, error=error: (_ for _ in ()).throw(error))
        assert raised.value is error


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_of_the_umask(mask):
    """safetensors writes files that their owner alone can read, whatever the umask."""

    def make(partial: Partial) -> None:
        save_file({"a": torch.ones(2)}, partial.path / "model.safetensors")
        partial.shards().append(rows_of(1))
        (partial.path / "run.sh").write_text("")
        (partial.path / "run.sh").chmod(0o755)

    before = os.umask(mask)
    try:
        output = Store().output("train", {}, make)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in output.path.rglob("*.*")}
    assert modes["run.sh"] == 0o755 | 0o666 & ~mask
    assert {mode for name, mode in modes.items() if name != "run.sh"} == {0o666 & ~mask}


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ESTALE, errno.EPERM]
)
def test_a_file_system_without_locks_is_one_sentence(code, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"cannot lock files \(.*\): set RANKDISTILL_HOME") as told:
        Store().output("sample", {}, make_nine)
    assert "\n" not in str(told.value)


def test_a_kernel_without_locks_is_no_matter_of_a_person_s(monkeypatch, recwarn):
    """filelock then takes a file's existence for the lock."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    store = Store()
    with held_at_once(store.lock_path("sample-0")) as free:
        assert free and is_held(store.lock_path("sample-0"))
    assert not is_held(store.lock_path("sample-0"))
    assert not recwarn.list
