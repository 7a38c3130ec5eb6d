"""The remote store on an S3 server that runs beside the tests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest
from test_store_remote import elsewhere, make, same

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store


class Relay:
    """Passes requests on to the server, and lets a test spoil some of them."""

    def __init__(self, server: str) -> None:
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
