"""The process that serves a model, from its start to its end."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx

from rankdistill.errors import UserError
from rankdistill.http_client import client
from rankdistill.serve.command import Serving, command, environment
from rankdistill.store.files import keep_log

START_S = 1800.0
"""Most seconds that a server may take to load."""
STOP_S = 20.0


def free_port() -> int:
    """A port of this machine that nobody listens on.

    Not of those that the system hands out: it would hand it to another while the server loads.
    """
    ports = range(20_000, 32_000)
    while True:
        port = secrets.choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def check_port(host: str, port: int) -> None:
    """UserError where the address can't be listened on: taken, or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{host}:{port} can't be listened on ({why}): give another --port or --host."
            ) from error


class Server(AbstractContextManager["Server"]):
    """Serves a model until the block ends; ready when entered.

    Args:
        serving: What and where.

    Raises:
        UserError: the address is taken, or the server ended while it was loading.
    """

    def __init__(self, serving: Serving) -> None:
        check_port(serving.host, serving.port)
        self.serving = serving
        self._folder = Path(tempfile.mkdtemp(prefix="rankdistill-serve-"))
        self.log = self._folder / "log"
        with self.log.open("w") as log:
            # In a session of its own: an interrupt from the terminal is ours to pass on.
            self._child = subprocess.Popen(
                command(serving), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=environment(), start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        return self._child.pid

    def __enter__(self) -> Server:
        try:
            self._wait_until_healthy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def wait(self) -> None:
        """Until the server ends by itself.

        Raises:
            UserError: it has, which it should not.
        """
        self._child.wait()
        raise self._death()

    def close(self) -> None:
        """End the server and the processes that it started."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_until_healthy(self) -> None:
        url = self.serving.url.removesuffix("/v1")
        end = time.monotonic() + START_S
        with client(url) as http:
            while time.monotonic() < end:
                if self._child.poll() is not None:
                    raise self._death()
                try:
                    if http.get("/health", timeout=5.0).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.3)
        raise UserError(f"The server was not ready after {START_S:.0f} s: see {self._keep_log()}.")

    def _death(self) -> UserError:
        lines = self.log.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "without a word")
        return UserError(f"The server has ended ({last.strip()[:200]}): see {self._keep_log()}.")

    def _keep_log(self) -> Path:
        return keep_log(self.log, f"rankdistill-serve-{self.pid}-")

    def _signal(self, number: int) -> None:
        """To the server and all that it started: they share a process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)


def _end_with_parent() -> None:
    """In the child: a server does not outlive a parent that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
