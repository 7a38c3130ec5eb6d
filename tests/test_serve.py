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
from rankdistill.serve import serving as commands
from rankdistill.serve.__main__ import main
from rankdistill.serve.serving import Serving, check_serving, command

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(autouse=True)
def without_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


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
            ([str(tmp_path / "unfinished")], "There is no run in"),
        ]:
            assert main(arguments) == 2, arguments
            error = capsys.readouterr().err
            assert told in error and error.count("\n") == 1, error


def test_a_server_that_ends_while_loading_is_told_of(monkeypatch):
    monkeypatch.setattr(
        commands,
        "command",
        lambda _: [sys.executable, "-c", "raise ValueError('no such quant')"],
    )
    serving = Serving(Path("/m"), "127.0.0.1", commands.free_port(), "s")
    with pytest.raises(UserError, match="ValueError: no such quant") as caught:
        commands.Server(serving).__enter__()
    assert "\n" not in str(caught.value)


STAND_IN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import chat_server
from rankdistill.serve import serving as commands
commands.command = lambda serving: chat_server.command(serving.port, serving.name)
"""
SERVE = (
    STAND_IN
    + """
from rankdistill.serve import __main__
__main__.server = lambda: "vllm"
sys.exit(__main__.main(sys.argv[1:]))
"""
)
HOLD = (
    STAND_IN
    + """
from pathlib import Path
from rankdistill.serve.serving import Serving
with commands.Server(Serving(Path("m"), "127.0.0.1", int(sys.argv[1]), "s")) as server:
    print("ready", flush=True)
    server.wait()
"""
)


def nobody_listens(port: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return True
        time.sleep(0.1)
    return False


def test_a_server_does_not_outlive_a_command_that_is_killed():
    port = commands.free_port()
    program = [sys.executable, "-c", HOLD, str(HERE), str(port)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.kill()
    assert nobody_listens(port)


def test_the_command_serves_shows_how_to_ask_and_ends_the_server(run):
    port = commands.free_port()
    url = f"http://127.0.0.1:{port}/v1"
    environment = {**os.environ, "VLLM_API_KEY": "secret"}
    program = [sys.executable, "-c", SERVE, str(HERE), str(run), "--port", str(port)]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        told = ""
        while "Ctrl-C" not in told and (line := child.stdout.readline()):
            told += line
        try:
            assert f"ready   {url}" in told, told
            assert "student turn 1: Why is the sky blue?" in told and "secret" not in told
            curl = next(line for line in told.splitlines() if line.startswith("curl"))
            assert shlex.split(curl)[1] == f"{url}/chat/completions"
            done = subprocess.run(
                ["bash", "-c", curl.replace("curl ", "curl -s --noproxy '*' ")],
                env=environment, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
            assert "data:" in done.stdout, (curl, done)
            compile(told[told.index("from openai") : told.index("Ctrl-C")], "shown", "exec")
        finally:
            child.send_signal(signal.SIGINT)
            rest = child.stdout.read()
    assert child.returncode == 0, rest
    assert nobody_listens(port)
