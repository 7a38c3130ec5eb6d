"""The remote store: what is pushed is pulled whole or not at all, whatever fails in between."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Iterator
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


class Relay:
    """Passes requests on to the server, and lets a test spoil some of them."""

    def __init__(self, server: str) -> None:
        import threading
        from http.client import HTTPConnection
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        relay, host = self, server.removeprefix("http://")
        self.spoil: Callable[[str, str], int | None] = lambda method, path: None

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status = relay.spoil(self.command, self.path)
                if status is not None:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                asked = HTTPConnection(host)
                asked.request(self.command, self.path, content, dict(self.headers))
                answer = asked.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def s3(monkeypatch) -> Iterator[Relay]:
    s3fs = pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    relay = Relay(f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.address)
    bucket = s3fs.S3FileSystem(skip_instance_cache=True)
    if not bucket.exists("bucket"):  # the server's memory is the process's
        bucket.mkdir("bucket")
    monkeypatch.setenv("RANKDISTILL_REMOTE", "s3://bucket/ours")
    yield relay
    relay.close()
    started.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def told(caplog) -> str:
    """The store's warnings."""
    records = [r for r in caplog.records if r.name == "rankdistill.store"]
    return "\n".join(r.getMessage() for r in records if r.levelno >= logging.WARNING)


def test_an_s3_server(s3, tmp_path, caplog, monkeypatch):
    made = Store().output("train", {"n": 0}, make)
    assert made.key in Store().remote_keys()
    assert same(made, elsewhere(tmp_path, "first").find(made.key))

    # A slow read is waited for.
    s3.spoil = lambda method, path: time.sleep(0.3) if "/files/" in path else None
    assert same(made, elsewhere(tmp_path, "slow").find(made.key))

    # A part that fails once is sent again by the client; one that goes on failing is told.
    failures = [500]
    s3.spoil = lambda method, path: failures.pop() if method == "PUT" and failures else None
    again = Store().output("train", {"n": 1}, make)
    assert not failures and not told(caplog)
    assert same(again, elsewhere(tmp_path, "again").find(again.key))

    def refuses(method: str, path: str) -> int | None:
        return 403 if method == "PUT" and "/outputs/" in path else None

    s3.spoil = refuses
    third = Store().output("train", {"n": 2}, make)
    assert "cannot be written" in told(caplog) and third.key in told(caplog)
    s3.spoil = lambda method, path: None
    assert elsewhere(tmp_path, "half").find(third.key) is None
    assert {made.key, again.key} <= {*Store().remote_keys()}
    Store().push(third.key)
    assert same(third, elsewhere(tmp_path, "half").find(third.key))

    s3.spoil = lambda method, path: 403 if method == "GET" else None
    with pytest.raises(UserError, match="s3://bucket/ours cannot be read"):
        elsewhere(tmp_path, "refused").find(made.key)
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"test-secret" not in written and b"test-key" not in written


def test_a_file_in_parts_of_which_one_fails(s3, tmp_path, caplog, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    whole = s3fs.S3FileSystem._put_file

    async def in_parts(self, *args, **options):  # S3's smallest part; 50 MiB otherwise
        return await whole(self, *args, **{**options, "chunksize": 5 << 20})

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", in_parts)

    def large(partial: Partial) -> dict:
        (partial.path / "weights.bin").write_bytes(bytes(12 << 20))
        return {}

    s3.spoil = lambda method, path: 403 if "partNumber=2" in path else None
    output = Store().output("train", {}, large)
    assert "cannot be written" in told(caplog)
    s3.spoil = lambda method, path: None
    assert elsewhere(tmp_path).find(output.key) is None
    assert Store().push(output.key) == 12 << 20
    assert same(output, elsewhere(tmp_path).find(output.key))


def test_the_address_of_a_remote_is_asked_for_once_it_is_needed(monkeypatch):
    monkeypatch.setenv("RANKDISTILL_REMOTE", "memory://ours")
    monkeypatch.setenv("RANK", "1")
    assert Store().remote is None  # other ranks wait for the first one
    monkeypatch.setenv("RANK", "0")
    assert isinstance(Store().remote, Remote)
