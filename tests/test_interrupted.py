"""Ctrl-C, SIGTERM and SIGHUP end a run in two lines, and the same command continues."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from tiny_run import TINY, refusal, run_here
from transformers import AutoModelForCausalLM

from rankdistill import console
from rankdistill.app import cli
from rankdistill.shell import ENDING, Terminated
from rankdistill.shell import run as run_tool

FAST = [part for part in TINY if not part.startswith("warmup.")]
STEPS = "train-*/scratch/checkpoints/*/trainer_state.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """One store: what comes before training is made once."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(
    ("number", "code", "sweep"),
    [(signal.SIGHUP, 129, []), (signal.SIGTERM, 143, []), (signal.SIGINT, 130, ["-m", "seed=0,1"])],
)
def test_a_run_that_is_stopped_says_where_and_how_it_goes_on(
    tmp_path, teacher, home, number, code, sweep
):
    rate = f"train.learning_rate=1e-{code % 7 + len(sweep)}"  # a training that no other test made
    run = forked.Forked(
        "rankdistill", *sweep, "recipe=rrhf", *FAST, f"teacher.path={teacher}", "warmup=none",
        "train.epochs=1000", "train.save_steps=1", rate, cwd=tmp_path, RANKDISTILL_HOME=str(home),
    )  # fmt: skip
    run.send_at(number, home / "partial", STEPS)
    done = run.wait()
    assert done.returncode == code, done.stderr[-2000:]
    where, command = done.stderr.strip().splitlines()
    said = r"Stopped in train at step \d+ of \d+\. The same command continues from what is saved:"
    assert re.fullmatch(said, where), done.stderr
    assert command.split()[:3] == ["python", "-m", "rankdistill"] and "recipe=rrhf" in command
    assert command.split()[3:5] == (sweep or command.split()[3:5])
    for folder in (home / "partial").iterdir():  # the next test is to wait for its own
        assert '"state": "stopped"' in (folder / "attempt.json").read_text()
        for state in folder.glob("scratch/checkpoints/*/trainer_state.json"):
            state.unlink()


SLOW = """
import signal, sys, time
from rankdistill.app import cli

# A shell that starts the tests in its background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def work(*_):
    print("begun", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(0.3)

cli._compose_and_run = work
sys.argv = ["rankdistill", "recipe=rrhf"]
cli.command()
"""


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_second_ctrl_c_takes_nothing_from_what_the_first_one_says(pause):
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None and run.stdout.readline() == "begun\n"
    for _ in range(2):
        run.send_signal(signal.SIGINT)
        time.sleep(pause)
    said = run.communicate()[1].splitlines()
    # On a busy machine the second one may come when all is said, and then ends the process at once.
    assert run.returncode in (130, -signal.SIGINT)
    assert said[0].endswith("The same command continues from what is saved:") and len(said) == 2


def test_a_second_ctrl_c_before_the_first_is_answered_is_answered(monkeypatch, capsys):
    """Whenever Python lets it in: at the first look at how signals are handled."""

    def work(*_: object) -> None:
        raise KeyboardInterrupt

    asked = iter([True])
    real = signal.getsignal

    def interrupted(number: int) -> object:
        if sys._getframe(1).f_code.co_name != "terminable" and next(asked, False):
            raise KeyboardInterrupt
        return real(number)

    monkeypatch.setattr(cli, "_compose_and_run", work)
    monkeypatch.setattr(signal, "getsignal", interrupted)
    monkeypatch.setattr(sys, "argv", ["rankdistill", "recipe=rrhf"])
    with pytest.raises(SystemExit) as ended:
        cli.command()
    assert ended.value.code == 130 and next(asked, None) is None
    assert capsys.readouterr().err.count("The same command continues from what is saved:") == 1


@pytest.mark.parametrize("number", ENDING)
def test_a_program_that_runs_a_command_keeps_its_signal_handlers(number, monkeypatch, capsys):
    def own(*_: object) -> None:
        raise KeyboardInterrupt

    def stopped(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(cli, "_compose_and_run", stopped)
    monkeypatch.setattr(sys, "argv", ["rankdistill", "recipe=rrhf"])
    for each in ENDING:
        signal.signal(each, own)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 128 + number
    assert [signal.getsignal(each) for each in ENDING] == [own, own, own]


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, text)


def test_a_closed_terminal_is_told_unless_nohup_has_it_ignored(monkeypatch, capsys):
    """Nobody may be there to read it."""
    monkeypatch.setattr(sys, "argv", ["rankdistill", "recipe=rrhf"])
    hang_up = lambda *_: os.kill(os.getpid(), signal.SIGHUP)  # noqa: E731
    monkeypatch.setattr(cli, "_compose_and_run", hang_up)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 129 and "The same command continues" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 129
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cli.main()
    assert capsys.readouterr().err == ""


def test_an_interruption_that_a_library_answers_with_an_error_is_none_of_a_model_s(
    tmp_path, monkeypatch, capsys, teacher
):
    """As torch does where a signal arrives while transformers enters the context of a device."""

    def interrupted(*_: object, **__: object) -> None:
        try:
            raise Terminated
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", interrupted)
    given = ["recipe=rrhf", *FAST, f"teacher.path={teacher}", "warmup=none"]
    with pytest.raises(SystemExit) as ended:
        run_here(monkeypatch, tmp_path, *given)
    assert ended.value.code == 143
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Stopped in student") and len(said) == 2
    (attempt,) = (tmp_path / "home" / "partial").glob("student-*/attempt.json")
    assert '"state": "stopped"' in attempt.read_text()


@pytest.mark.parametrize("code", [None, 0, 3])
def test_code_of_ones_own_that_exits_is_no_success(code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rankdistill.stages.pipeline.run", lambda *_, **__: sys.exit(code))
    told = refusal(monkeypatch, capsys, tmp_path, "recipe=rrhf")
    assert f"of your own (SystemExit: {code})" in told and not (tmp_path / "run").exists()


def test_where_the_work_stands(capsys):
    console.heading("sample", "responses")
    with pytest.raises(KeyboardInterrupt), console.progress(80, "prompts", done=10) as bar:
        bar.advance(2)
        raise KeyboardInterrupt
    assert console.stopped() == "in sample at prompt 12 of 80"
    console.heading("score", "responses")
    assert console.stopped() == "in score"


def test_a_tool_that_is_interrupted_ends_quietly(capsys):
    def main() -> int:
        raise KeyboardInterrupt

    assert run_tool(main) == 130
    assert "Traceback" not in capsys.readouterr().err
