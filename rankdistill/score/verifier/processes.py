"""Checks with a limit of time, in processes of their own: a thread that hangs cannot be ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import rankdistill
from rankdistill.errors import UserError
from rankdistill.parallel import cores
from rankdistill.score.verifier.rules import Checked, Rule

MOST_PROCESSES = 8
GROUPS_PER_PROCESS = 16
"""A process for fewer would take longer to start than it saves."""
START_S = 300.0
"""Seconds in which a process must have imported what its rule needs."""


class Checkers(AbstractContextManager["Checkers"]):
    """Processes that check responses by one rule, as many at once as there are cores.

    A response that takes longer than the limit, or that its process does not survive, has no
    value; the process is started anew.

    Args:
        rule: What is checked. A function of the user's has one process: it may keep something.
        limit_s: Seconds per response.
        groups: How many groups there are.
    """

    def __init__(self, rule: Rule, limit_s: float, groups: int) -> None:
        most = 1 if rule.own else min(cores(), MOST_PROCESSES)
        self._count = max(1, min(most, groups // GROUPS_PER_PROCESS))
        self._free: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(self._count):
            self._free.put(_Process(rule, limit_s))

    def answers(
        self, groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]]
    ) -> Iterator[list[Checked]]:
        """What is said of each group's texts, with the kept columns of its prompt, in order."""
        with ThreadPoolExecutor(self._count) as threads:
            yield from threads.map(self._group, groups)

    def _group(self, group: tuple[Sequence[str], Mapping[str, Any]]) -> list[Checked]:
        process = self._free.get()
        try:
            return process.answers(*group)
        finally:
            self._free.put(process)

    def __exit__(self, *exception: Any) -> None:
        for _ in range(self._count):
            self._free.get().close()


class _Process:
    """One process; it is started when it is asked, the first time and after it was ended."""

    def __init__(self, rule: Rule, limit_s: float) -> None:
        self._rule, self._limit_s = rule, limit_s
        self._child: subprocess.Popen[bytes] | None = None

    def answers(self, texts: Sequence[str], columns: Mapping[str, Any]) -> list[Checked]:
        found: list[Checked] = []
        while len(found) < len(texts):
            if self._child is None:
                self._start()
            found += self._asked(texts[len(found) :], columns)
        return found

    def _asked(self, texts: Sequence[str], columns: Mapping[str, Any]) -> list[Checked]:
        """The answers up to and with the one that ends the process, or all of them."""
        checked: list[Checked] = []
        try:
            self._connection.send_bytes(json.dumps({"texts": texts, "columns": columns}).encode())
            for _ in texts:
                if not self._connection.poll(self._limit_s):
                    checked.append(Checked(failed=f"it took more than {self._limit_s:g} s"))
                    self.close()
                    break
                checked.append(Checked(**json.loads(self._connection.recv_bytes())))
        except (EOFError, OSError):
            checked.append(Checked(failed="the process that checked it ended"))
            self.close()
        return checked

    def _start(self) -> None:
        ours, its = socket.socketpair()
        with its:
            # In a session of its own, so that Ctrl-C is this process's to act on; without the
            # working directory, since the path of modules is this process's.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.worker", str(its.fileno())],
                pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "PYTHONPATH": _path()},
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        told = {"rule": asdict(self._rule), "limit_s": self._limit_s, "path": sys.path}
        try:
            self._connection.send_bytes(json.dumps(told).encode())
            ready = self._connection.poll(START_S) and self._connection.recv_bytes()
        except (EOFError, OSError):
            ready = None
        if not ready:
            self.close()
            raise UserError(
                f"The process that checks responses by score.rule={self._rule.rule} did not start: "
                "what it said is above."
            )

    def close(self) -> None:
        """Ends the process."""
        if self._child is None:
            return
        self._connection.close()
        self._child.kill()
        self._child.wait()
        self._child = None


def _path() -> str:
    package = str(Path(rankdistill.__file__).parents[1])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
