"""A conversation through a pipe, with one student and with two; the servers are stand-ins."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from rankdistill.chat import __main__ as chat
from rankdistill.chat.conversation import Speaker, converse
from rankdistill.http_client import client
from rankdistill.serve.serving import free_port

HERE = Path(__file__).parent


@contextmanager
def served(name: str):
    port = free_port()
    child = subprocess.Popen([sys.executable, str(HERE / "chat_server.py"), str(port), name])
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            try:
                httpx.get(url.replace("v1", "health"), trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def urls():
    with served("one") as a, served("two") as b:
        yield a, b


def test_a_scripted_conversation(urls, monkeypatch, capsys):
    script = "hello\n\nagain\n/new\nafresh\n/exit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    assert chat.main([urls[0]]) == 0
    told = capsys.readouterr().out.splitlines()
    said = [line.strip() for line in told if line.startswith("one turn")]
    assert said == ["one turn 1: hello", "one turn 3: again", "one turn 1: afresh"]


def test_two_students_answer_each_line(urls, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert chat.main([urls[0], "--against", urls[1]]) == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = told.index(f"[{urls[0]}]")
    assert told[at : at + 4] == [
        f"[{urls[0]}]", "one turn 1: hello", f"[{urls[1]}]", "two turn 1: hello"
    ]  # fmt: skip


def test_side_by_side_on_a_terminal(urls):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with client(urls[0]) as a, client(urls[1]) as b:
        speakers = [Speaker("a", a, "one"), Speaker("b", b, "two")]
        converse(speakers, ["hi"], console, {})
    lines = screen.getvalue().splitlines()
    assert any("one turn 1: hi" in line and "two turn 1: hi" in line for line in lines)


def test_a_turn_that_is_refused_is_told_and_forgotten(urls):
    screen = io.StringIO()
    with client(urls[0]) as http:
        speaker = Speaker("a", http, "one")
        converse([speaker], ["too long", "ok"], Console(file=screen), {})
    assert "answers 400" in screen.getvalue() and "one turn 1: ok" in screen.getvalue()


def test_mistakes_are_one_sentence(tmp_path, capsys):
    for name, told in [
        (f"http://127.0.0.1:{free_port()}/v1", "Nobody answers"),
        (str(tmp_path / "none"), "no run folder"),
        (str(tmp_path), "There is no run in"),
    ]:
        assert chat.main([name]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
