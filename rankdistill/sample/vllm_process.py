"""One child process with a vLLM engine, as its parent sees it."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

import rankdistill
from rankdistill.errors import EngineDied, UserError
from rankdistill.models.device import release
from rankdistill.store.files import keep_log

_DISTRIBUTED = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_\w+|MASTER_ADDR"
    r"|MASTER_PORT|TORCHELASTIC_\w+)"
)
"""Variables of the trainer's process group, which the engine would join."""

PATIENCE = 10.0
"""Seconds that a child, and then those that it started, have to end by themselves."""
_LOG_LINES = 6
_LINE_LENGTH = 240

Answers = queue.Queue[tuple["VLLMProcess", dict[str, Any] | None]]
"""What processes say, and None when one has ended."""


class VLLMProcess:
    """Starts the child and sends it requests; its answers go into a queue.

    The child ends with `close`, when this process ends in whatever way, or by an error of its own.

    Args:
        folder: Where its log is written.
        environment: Added to its environment.
    """

    def __init__(self, folder: Path, answers: Answers, environment: Mapping[str, str]) -> None:
        release()
        self.in_flight = 0
        """Requests that are not answered."""
        self._log = folder / "vllm.log"
        command = [sys.executable, "-P", "-m", "rankdistill.vllm_worker"]
        if threading.current_thread() is threading.main_thread():
            # The kernel's "kill me with my parent" means the thread that started the child, so it
            # is asked for only where that thread lives as long as the process.
            command.append(str(os.getpid()))
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(environment),
            )
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def send(self, request: Mapping[str, Any]) -> None:
        """One request. A child that has ended is not noticed here but by its last answer, None."""
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()

    def close(self) -> None:
        """End the child, and wait for those that it started: each holds a GPU of its own."""
        workers: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            workers = psutil.Process(self.pid).children(recursive=True)
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        ends = time.monotonic() + PATIENCE
        while (left := [worker for worker in workers if _runs(worker)]) and time.monotonic() < ends:
            time.sleep(0.02)
        for worker in left:
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def death(self) -> UserError:
        """Why the child has ended: its exit and the last lines of its log, which is kept."""
        self._child.wait()
        log = self._log.read_text(errors="replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        if name := _broken_companion(lines):
            return broken(name)
        kept = keep_log(self._log, f"rankdistill-vllm-{self.pid}-")
        last = "\n".join(f"  {line[:_LINE_LENGTH]}" for line in lines[-_LOG_LINES:])
        return EngineDied(
            f"The vLLM process {_exit(self._child.returncode)}; all of its log is in {kept}, "
            f"it ends:\n{last or '  (empty)'}"
        )

    def _read(self, answers: Answers) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answers.put((self, json.loads(line)))
        answers.put((self, None))


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended, be it that nobody has asked how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's, without its process group, with what the engine needs."""
    inherited = {k: v for k, v in os.environ.items() if not _DISTRIBUTED.fullmatch(k)}
    package = str(Path(rankdistill.__file__).parents[1])
    defaults = {
        # GiB of keys and values, which vLLM takes at once.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # vLLM gives torch one thread otherwise.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1),
        # Threads that spin for each other make an engine ten times slower on a busy machine.
        "GOMP_SPINCOUNT": "2000",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return {
        **defaults,
        **inherited,
        # The engine in the child itself instead of one more process: starts in 3 s instead of 23.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, inherited.get("PYTHONPATH")])),
        **more,
    }


def _exit(code: int) -> str:
    if code == -9:
        return "was killed, which often means that the machine ran out of memory"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _broken_companion(lines: list[str]) -> str | None:
    """The package that the error at the log's end is about."""
    if not lines or not re.match(r"(\w+\.)*\w*(Error|Exception)\b", lines[-1]):
        return None
    return next((name for name in COMPANIONS if name in "\n".join(lines[-20:])), None)


COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What `vllm-cpu` brings along, built for another torch than its own."""


def check_torchvision() -> None:
    """Refuses an environment whose torchvision does not fit its torch: transformers imports it.

    Raises:
        UserError: importing it fails.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        raise broken("torchvision") from error


def broken(name: str) -> UserError:
    """What to say of a package of `COMPANIONS` that cannot be imported."""
    return UserError(
        f"The installed {name} was built for another torch, so transformers and vLLM cannot be "
        f"imported: run `pip uninstall -y {' '.join(COMPANIONS)}`, which nothing here needs."
    )
