"""The remote store: what is pushed is pulled whole or not at all, whatever fails in between."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from rankdistill.errors import UserError
from rankdistill.store import Output, Partial, Store
from rankdistill.store.__main__ import main
from rankdistill.store.remote import Remote


def make(partial: Partial) -> dict[str, int]:
    partial.shards().append([{"prompt_id": "a", "responses": [{"token_ids": [1, 2]}]}])
    (partial.path / "model").mkdir(exist_ok=True)
    for name in ("weights", "same"):
        (partial.path / "model" / f"{name}.bin").write_bytes(bytes(range(256)) * 40)
    return {"made": 1}


def not_made(partial: Partial) -> dict[str, int]:
    pytest.fail("it is in the remote store")


class Faulty(MemoryFileSystem):
    """An object store in memory, of which a test says what goes wrong."""

    protocol = "faulty"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: ClassVar[Callable[[str, str], None]] = staticmethod(lambda what, path: None)
    calls: ClassVar[list[str]] = []

    def _called(self, what: str, path: str) -> None:
        Faulty.calls.append(what)
        Faulty.before(what, path)

    def put_file(self, lpath, rpath, **options):
        self._called("put", rpath)
        super().put_file(lpath, rpath, **options)

    def pipe_file(self, path, value, **options):
        self._called("manifest", path)
        super().pipe_file(path, value, **options)

    def get_file(self, rpath, lpath, **options):
        self._called("get", rpath)
        super().get_file(rpath, lpath, **options)

    def cat_file(self, path, **options):
        self._called("look", path)
        return super().cat_file(path, **options)


@pytest.fixture
def remote(monkeypatch) -> type[Faulty]:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.store, Faulty.pseudo_dirs, Faulty.calls = {}, [""], []
    Faulty.before = staticmethod(lambda what, path: None)
    monkeypatch.setenv("RANKDISTILL_REMOTE", "faulty://bucket/ours")
    return Faulty


def elsewhere(tmp_path: Path, name: str = "elsewhere") -> Store:
    """The store of another machine."""
    return Store(tmp_path / name)


def same(one: Output, another: Output | None) -> bool:
    assert another is not None
    files = [
        {p.relative_to(o.path): p.read_bytes() for p in o.path.rglob("*") if p.is_file()}
        for o in (one, another)
    ]
    return files[0] == files[1] and one.path != another.path


@pytest.mark.parametrize("address", ["faulty://bucket/ours", "file://{}/shared", "{}/plain"])
def test_what_one_machine_makes_another_takes(address, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKDISTILL_REMOTE", address.format(tmp_path))
    made = Store().output("train", {"rate": 1}, make)
    there = elsewhere(tmp_path)
    assert same(made, there.output("train", {"rate": 1}, not_made))
    assert not (there.root / "partial" / made.key).exists()
    third = elsewhere(tmp_path, "third")
    assert same(made, third.find(made.key)) and third.find("train-0000000000000000") is None
    monkeypatch.delenv("RANKDISTILL_REMOTE")
    assert elsewhere(tmp_path, "fourth").find(made.key) is None


def test_what_is_damaged_here_is_taken_from_there(remote):
    output = Store().output("train", {}, make)
    weights = output.path / "model" / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert Store().output("train", {}, not_made).path == output.path
    assert weights.read_bytes() == whole


def test_equal_files_are_sent_once_and_nothing_twice(remote):
    output = Store().output("train", {}, make)
    assert remote.calls == ["look", "look", "put", "put", "manifest"]  # rows, and weights once
    remote.calls.clear()
    assert Store().push(output.key) == 0 and remote.calls == ["look"]


def test_what_is_not_whole_here_is_not_sent(remote):
    output = Store().output("train", {}, make)
    remote.store.clear()
    (output.path / "model" / "same.bin").write_bytes(bytes(range(256)) * 39 + bytes(256))
    with pytest.raises(UserError, match=r"(same|weights).bin is damaged, so train-.* not pushed"):
        Store().push(output.key)
    assert not [path for path in remote.store if path.endswith(".json")]
    with pytest.raises(UserError, match=r"^train-0000000000000000 is not complete in .*home\.$"):
        Store().push("train-0000000000000000")


def test_a_disk_that_is_full_here_is_no_fault_of_the_remote_store(remote, tmp_path):
    Store().output("train", {}, make)

    def full(what: str, path: str) -> None:
        if what == "get":
            raise OSError(errno.ENOSPC, "No space left on device")

    remote.before = staticmethod(full)
    with pytest.raises(UserError, match=f"No space for the store {tmp_path / 'elsewhere'} on"):
        elsewhere(tmp_path).output("train", {}, not_made)


def test_half_an_upload_is_nobodys_output(remote, tmp_path, caplog):
    """It fails at the second file, and at the manifest; what was made stays, and is sent later."""
    for kind in ("put", "manifest"):
        failing = iter([None, kind] if kind == "put" else [kind])

        def fails(what: str, path: str, kind=kind, failing=failing) -> None:
            if what == kind and next(failing, None) == kind:
                raise ConnectionError("the connection broke")

        remote.before = staticmethod(fails)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            output = Store().output("train", {"fails": kind}, make)
        [told] = [record.getMessage() for record in caplog.records]
        assert "faulty://bucket/ours cannot be written (the connection broke)" in told
        assert f"store push {output.key}" in told
        assert Store().find(output.key) == output
        assert elsewhere(tmp_path).find(output.key) is None
        remote.before = staticmethod(lambda what, path: None)
        remote.calls.clear()
        assert Store().push(output.key) > 0 or kind == "manifest"
        assert remote.calls.count("put") == (kind == "put")  # what was there is not sent again
        assert same(output, elsewhere(tmp_path).find(output.key))


def test_a_killed_download_leaves_nothing_that_counts(remote, tmp_path):
    output = Store().output("train", {}, make)
    there = elsewhere(tmp_path)

    def killed(what: str, path: str) -> None:
        if what == "get" and remote.calls.count("get") == 2:
            raise KeyboardInterrupt

    remote.calls.clear()
    remote.before = staticmethod(killed)
    with pytest.raises(KeyboardInterrupt):
        there.find(output.key)
    assert not there.output_path(output.key).exists()
    remote.before = staticmethod(lambda what, path: None)
    assert same(output, there.find(output.key))


@pytest.mark.parametrize("damage", ["a bit", "half", "gone", "manifest", "outside"])
def test_what_is_not_as_it_was_pushed_is_made_here(damage, remote, tmp_path, caplog):
    output = Store().output("train", {}, make)
    weights = output.manifest["files"]["model/weights.bin"]["sha256"]
    place = next(path for path in remote.store if path.endswith(weights))
    manifest = next(path for path in remote.store if path.endswith(".json"))
    if damage == "gone":
        del remote.store[place]
    elif damage in ("a bit", "half"):
        whole = remote.store[place].getvalue()
        broken = b"x" + whole[1:] if damage == "a bit" else whole[: len(whole) // 2]
        remote(**{}).pipe_file(place, broken)
    else:
        content = json.loads(remote.store[manifest].getvalue())
        if damage == "manifest":
            content["counts"] = {"made": 2}
        else:  # a checksum is no signature: whoever writes there can make one
            content["files"]["../../../evil"] = content["files"]["model/same.bin"]
            from rankdistill.store.manifest import _checksum

            del content["checksum"]
            content["checksum"] = _checksum(content)
        remote(**{}).pipe_file(manifest, json.dumps(content).encode())
    there = elsewhere(tmp_path)
    if damage == "gone":
        with pytest.raises(UserError, match="cannot be read"):
            there.output("train", {}, make)
        return
    made: list[int] = []
    with caplog.at_level(logging.WARNING):
        there.output("train", {}, lambda partial: made.append(1) or make(partial))
    assert made == [1] and f"{output.key} is damaged in faulty://bucket/ours" in caplog.text
    assert not list(tmp_path.rglob("evil"))


def test_access_that_is_refused_ends_the_run_in_one_sentence(remote, tmp_path):
    def refuses(what: str, path: str) -> None:
        raise PermissionError("Forbidden")

    remote.before = staticmethod(refuses)
    with pytest.raises(UserError, match=r"faulty://bucket/ours cannot be read \(Forbidden\)"):
        Store().output("train", {}, make)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://key:secret@bucket", "has credentials in it"),
        ("simplecache::s3://key:secret@bucket", "has credentials in it"),
        ("s3://bucket?secret=secret", "has credentials in it"),
        ("nothing://bucket", "is no address"),
        ("absent://bucket", "needs a package that is not installed"),
    ],
)
def test_an_address_that_cannot_work_is_refused(address, told, monkeypatch, capsys):
    package = {"class": "absent_package.FileSystem", "err": "Install absent_package"}
    monkeypatch.setitem(known_implementations, "absent", package)
    monkeypatch.setenv("RANKDISTILL_REMOTE", address)
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert told in said and "secret" not in said and len(said.strip().splitlines()) == 1


def test_the_commands(remote, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RANKDISTILL_REMOTE")
    keys = [Store().output("train", {"n": n}, make).key for n in range(2)]
    assert main(["push"]) == 2 and "set RANKDISTILL_REMOTE" in capsys.readouterr().err
    monkeypatch.setenv("RANKDISTILL_REMOTE", "faulty://bucket/ours")
    assert main(["push", keys[0]]) == 0 and main(["push"]) == 0
    assert "2 outputs in the remote store" in capsys.readouterr().out
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "elsewhere"))
    assert main(["pull", keys[1]]) == 0 and main(["pull", "train-1"]) == 2
    assert "No output 'train-1' in the remote store" in capsys.readouterr().err
    assert main(["pull"]) == 0 and {*keys} == {p.name for p in (Store().root / "outputs").iterdir()}


# ------------------------------------------------------------------- a server of S3 on this machine


def test_the_address_of_a_remote_is_asked_for_once_it_is_needed(monkeypatch):
    monkeypatch.setenv("RANKDISTILL_REMOTE", "memory://ours")
    monkeypatch.setenv("RANK", "1")
    assert Store().remote is None  # other ranks wait for the first one
    monkeypatch.setenv("RANK", "0")
    assert isinstance(Store().remote, Remote)
