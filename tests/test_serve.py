"""What is started, what is refused, and that nothing stays behind; the server is a stand-in."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from export_runs import finished_run

from rankdistill.errors import UserError
from rankdistill.serve import command as commands
from rankdistill.serve import process
from rankdistill.serve.__main__ import main
from rankdistill.serve.command import Serving, check_serving, command

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(autouse=True)
def without_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def stand_in(serving: Serving) -> list[str]:
    return [sys.executable, str(HERE / "chat_server.py"), str(serving.port), serving.name]


def test_vllm_is_started_by_its_command_where_there_is_one(monkeypatch):
    serving = Serving(Path("/m"), "127.0.0.1", 8000, "student", ["--max-model-len", "512"])
    monkeypatch.setattr(commands, "server", lambda: "vllm")
    monkeypatch.setattr(commands, "distribution", lambda name: object())
    found = " ".join(command(serving)[1:])
    assert "vllm.entrypoints.cli.main serve /m --served-model-name student" in found
    assert found.endswith("--max-model-len 512") and "--host 127.0.0.1 --port 8000" in found

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(commands, "distribution", missing)
    assert "-m vllm.entrypoints.openai.api_server --model /m" in " ".join(command(serving))


def test_what_is_said_about_the_engine_wins(monkeypatch):
    monkeypatch.setattr(commands, "server", lambda: "vllm")
    more = ["--dtype", "bfloat16", "--block-size=16"]
    found = command(Serving(Path("/m"), "127.0.0.1", 1, "s", more))
    assert found.count("--dtype") == 1 and "--block-size" not in found


def test_without_vllm_transformers_serves_and_without_both_a_sentence(monkeypatch):
    there = {"fastapi", "uvicorn", "typer"}
    monkeypatch.setattr(commands, "find_spec", lambda name: name if name in there else None)
    serving = Serving(Path("/m"), "127.0.0.1", 8000, "s")
    assert command(serving)[3:] == [
        commands._TRANSFORMERS, "serve", "/m", "--host", "127.0.0.1", "--port", "8000"
    ]  # fmt: skip
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with pytest.raises(UserError, match="knows no keys"):
        check_serving(Serving(Path("/m"), "0.0.0.0", 8000, "s"))
    there.clear()
    with pytest.raises(UserError, match=r"transformers\[serving\]"):
        check_serving(serving)


def test_other_addresses_need_a_key_which_never_is_an_argument(monkeypatch):
    monkeypatch.setattr(commands, "server", lambda: "vllm")
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UserError, match="without a key"):
            check_serving(Serving(Path("/m"), host, 8000, "s"))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    serving = Serving(Path("/m"), "0.0.0.0", 8000, "s")
    check_serving(serving)
    assert "secret" not in " ".join(command(serving))
    assert serving.url == "http://127.0.0.1:8000/v1"


def test_mistakes_are_one_sentence(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(commands, "server", lambda: "vllm")
    monkeypatch.setattr("rankdistill.serve.__main__.server", lambda: "vllm")
    (tmp_path / "unfinished").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, told in [
            ([str(run), "--port", port], "can't be listened on"),
            ([str(run), "--host", "0.0.0.0"], "without a key"),
            ([str(run) + "s"], "did you mean 'student'"),
            ([str(tmp_path / "unfinished")], "not finished"),
        ]:
            assert main(arguments) == 2, arguments
            error = capsys.readouterr().err
            assert told in error and error.count("\n") == 1, error


def test_a_server_that_ends_while_loading_is_told_of(monkeypatch):
    monkeypatch.setattr(
        process, "command", lambda _: [sys.executable, "-c", "raise ValueError('no such quant')"]
    )
    serving = Serving(Path("/m"), "127.0.0.1", process.free_port(), "s")
    with pytest.raises(UserError, match="ValueError: no such quant") as caught:
        process.Server(serving).__enter__()
    assert "\n" not in str(caught.value)


SERVE = """
import sys
sys.path.insert(0, {tests!r})
from rankdistill.serve import process, __main__
from test_serve import stand_in
process.command = stand_in
__main__.server = lambda: "vllm"
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("key", "ending"), [("secret", signal.SIGINT), ("", signal.SIGKILL)])
def test_the_command_serves_shows_how_to_ask_and_ends_the_server(run, tmp_path, key, ending):
    port = process.free_port()
    out = tmp_path / "out"
    with out.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE.format(tests=str(HERE)), str(run), "--port", str(port)],
            stdout=file, stderr=file, env={**os.environ, "VLLM_API_KEY": key},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        end = time.monotonic() + 120
        while "Ctrl-C" not in out.read_text() and time.monotonic() < end and child.poll() is None:
            time.sleep(0.1)
        told = out.read_text()
        assert f"ready   {url}" in told, told
        assert "student turn 1: Why is the sky blue?" in told
        curl = next(line for line in told.splitlines() if line.startswith("curl"))
        assert "secret" not in told
        done = subprocess.run(
            ["bash", "-c", curl.replace("curl ", "curl -s --noproxy '*' ")],
            env={**os.environ, "VLLM_API_KEY": key}, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert "data:" in done.stdout, (curl, done)
        assert shlex.split(curl)[1] == f"{url}/chat/completions"
        python = told[told.index("from openai") : told.index("Ctrl-C")]
        compile(python, "shown", "exec")
    finally:
        child.send_signal(ending)
        code = child.wait(timeout=30)
    assert code == (-9 if ending == signal.SIGKILL else 0)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the server outlived the command")
