"""What a shell expects of every command: exit codes, signals, closed pipes, a mistake in a line."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import get_terminal_size
from types import FrameType
from typing import Any, NoReturn, ParamSpec

from rankdistill.errors import UserError, suggest

P = ParamSpec("P")

INTERRUPTED = 130
"""Exit code after SIGINT: 128 and the signal's number."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command in an orderly way."""
CLOSED_PIPE = 141
"""... after SIGPIPE."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler or `kill` sends, and SIGHUP of a terminal that is closed unwind
    the stack as Ctrl-C does."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.code = 128 + number
        """Of the process's end: 143 after SIGTERM, 129 after SIGHUP."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` in the block, in this process; its children end as
    ever. A SIGHUP that is ignored, as under `nohup`, stays so."""
    owner = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated(number)

    before: dict[int, Any] = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, terminate)
    except ValueError:  # a thread that is not the main one has no say in it
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def no_more_interrupts() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP do nothing in the block, and end the process without a word after
    it."""
    ending = [n for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN]
    try:
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
    except ValueError:  # a thread that is not the main one has no say in it
        yield
        return
    yield
    for number in ending:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupts_as_before() -> Iterator[None]:
    """What Ctrl-C did before the block it does after it."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@contextmanager
def interruptions_kept() -> Iterator[None]:
    """An interruption that another library's clean-up answers with an error stays an interruption.

    torch, for one, cannot leave the context of a device that a signal has kept it from entering.
    """
    try:
        yield
    except Exception as error:
        interruption = next((e for e in _behind(error) if isinstance(e, KeyboardInterrupt)), None)
        if interruption is not None:
            raise type(interruption)(*interruption.args) from error
        raise


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from or beside, each once: a chain may be a circle."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        found = left.pop()
        if found is not None and not any(found is one for one in seen):
            seen.append(found)
            left += [found.__cause__, found.__context__]
            yield found


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is not looked for in the block, which makes much and throws little away."""
    looked_for = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked_for:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Garbage is looked for neither while the block imports nor, later on, among what it imported.

    A quarter of the time that torch, transformers and what they need take to import goes into that,
    and 0.3 seconds of every stage's `release`.
    """
    before = len(sys.modules)
    with uncollected():
        try:
            yield
        finally:
            if len(sys.modules) > before:
                gc.freeze()
                # At the end all is looked through: nanobind reports what is still there as leaked.
                atexit.register(gc.unfreeze)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """A reader that has seen enough, such as `head`, ends the command without a word."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)


def run(main: Callable[[], int | None]) -> int:
    """The exit code of a tool's `main`; Ctrl-C and a closed pipe end it quietly."""
    try:
        with quiet_pipe():
            return main() or 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def says_mistakes(run: Callable[P, int | None]) -> Callable[P, int]:
    """A command's `main`: says a UserError in one line, without a traceback.

    Returns:
        The exit code: what `run` returned, or 0; 2 for a person's mistake.
    """

    @wraps(run)
    def main(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return run(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return INTERRUPTED

    return main


def columns() -> int:
    """Of a line: the terminal's, and of a pipe enough for every line."""
    return max(60, get_terminal_size().columns) if sys.stdout.isatty() else 150


def check_run_folder(folder: Path) -> None:
    """What a command is about is there: asked before torch is imported, which takes seconds.

    Raises:
        UserError: there is no such folder.
    """
    if folder.is_dir():
        return
    parent = folder.absolute().parent
    # Folders of the machine's root are no runs.
    near = parent.is_dir() and parent != Path(parent.anchor)
    shown = (p for p in parent.iterdir() if p.is_dir() and p.name[0] != ".") if near else ()
    others = [path.name for path in shown]
    nearest = suggest(folder.name, others) if others else "give the folder of a finished run."
    raise UserError(f"There is no run folder '{folder}': {nearest}")


def parser(tool: str, description: str, **more: Any) -> argparse.ArgumentParser:
    """Of the command line `python -m rankdistill.TOOL`; `more` is argparse's."""
    prog = f"python -m rankdistill.{tool}"
    return Parser(prog, description=description, **more)


class Parser(argparse.ArgumentParser):
    """Says a wrong argument as any other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}: see `{self.prog} --help`.")


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
