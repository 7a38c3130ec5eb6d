"""Commands as `python -m MODULE` runs them, in a fork of a process that has imported all they need.

A Python of its own would spend 5 to 8 seconds on importing torch and transformers. What is about
those imports themselves, or about a module that must not be imported, needs a new one.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from glob import glob
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from shortcuts import shortcuts

HERE = str(Path(__file__).parent)


class Forked:
    """A command that runs, in a process group of its own; its output is in two files."""

    def __init__(
        self, module: str, *arguments: str, cwd: Path | str = "/", **environment: str
    ) -> None:
        self.args = [module, *arguments]
        self._folder = Path(tempfile.mkdtemp(prefix="forked-"))
        given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        options = (module, arguments, str(cwd), given, str(self._folder))
        self._process: Any = _context().Process(target=_become, args=options)
        self._process.start()

    def kill_at(self, folder: Path, pattern: str) -> None:
        """Ends it, and all that it started, as soon as `folder` has a file of that pattern."""
        self._until(folder, pattern)
        self.kill()
        done = self.wait()
        assert done.returncode == -signal.SIGKILL, f"{pattern} was not there: {done.stderr[-3000:]}"

    def send_at(self, number: int, folder: Path, pattern: str) -> None:
        """Sends it a signal as soon as `folder` has a file of that pattern."""
        self._until(folder, pattern)
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends it, and all that it started, unless it has ended: its number may be another's."""
        if self._process.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # it may have no group of its own yet

    def _until(self, folder: Path, pattern: str, timeout: float = 120) -> None:
        """Waits for a file, or for the end of the process."""
        end = time.monotonic() + timeout
        # Not `Path.glob`, which fails where a folder goes while it looks.
        while self._process.is_alive() and not glob(pattern, root_dir=folder):
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """What it said, when it has ended; the code is minus the signal's number if one did it."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        files = [self._folder / name for name in ("stdout", "stderr")]
        # One that was killed at once has not opened them.
        said = [file.read_text() if file.exists() else "" for file in files]
        return subprocess.CompletedProcess(self.args, self._process.exitcode, *said)


def run(
    module: str, *arguments: str, cwd: Path | str = "/", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command from its beginning to its end."""
    return Forked(module, *arguments, cwd=cwd, **environment).wait()


def together(
    module: str, *arguments: str, cwd: Path | str = "/", nodes: int = 1, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of one launch, from their beginning to their end."""
    both = launched(module, *arguments, cwd=cwd, nodes=nodes, **environment)
    return [process.wait() for process in both]


def launched(
    module: str, *arguments: str, cwd: Path | str = "/", nodes: int = 1, **environment: str
) -> list[Forked]:
    """Two processes of one launch on one node or two, with what torchrun tells each of them."""
    of_a_node = 2 // nodes
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launch = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(of_a_node), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": f"forked-{port}",
    }  # fmt: skip
    return [
        Forked(
            module, *arguments, cwd=cwd, **launch, **environment,
            RANK=str(rank), LOCAL_RANK=str(rank % of_a_node),
        )
        for rank in (0, 1)
    ]  # fmt: skip


def shares(work: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """`work(process, *arguments)` in so many processes, as `torch.multiprocessing.spawn` has it."""
    from torch.multiprocessing import start_processes

    _context()
    start_processes(work, arguments, processes, start_method="forkserver")


@cache
def _context() -> Any:
    # A process has one server of forks, and an earlier test of what starts another may have it.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as patch:  # it does not get this process's `sys.path`
        patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
        forkserver.ensure_running()
    return context


def _become(
    module: str, arguments: list[str], cwd: str, environment: Mapping[str, str], folder: str
) -> None:
    """Runs in the fork."""
    os.setsid()
    # A shell that starts the tests in its background has them ignore it, and nohup the other one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        getattr(sys, name).reconfigure(encoding="utf-8", line_buffering=True)
    # A fork server passes over what it cannot import, and each fork would import it again.
    assert "preloaded" in sys.modules
    sys.argv = [module, *arguments]
    # A command of the package must find all that it imports without the tests' folder.
    ours = Path(HERE, f"{module}.py").is_file()
    if ours or module == "rankdistill":  # a tool is run for what it shows
        for place, name, instead in shortcuts():
            setattr(place, name, instead)
    sys.path[:] = [cwd, *(path for path in sys.path if path and (ours or path != HERE))]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # in the order of a Python that ends
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
