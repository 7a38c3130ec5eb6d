"""Files that serve an export elsewhere: Inferless, Docker, Compose, Kubernetes; all with vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rankdistill.export.source import Source
from rankdistill.report.rendering import environment
from rankdistill.store.manifest import versions

FILES = (
    "app.py",
    "inferless-runtime-config.yaml",
    "Dockerfile",
    "docker-compose.yaml",
    "kubernetes.yaml",
)
VLLM = "0.31.0"
"""Deployed where none is installed here."""
INFERLESS = "0.2.15"
"""Of the package with the decorators of `app.py`."""


def write_deployment(source: Source, to: Path, repository: str | None, int8: bool) -> None:
    """Writes the files beside the weights.

    Args:
        to: The export's folder.
        repository: Of the hub, where the weights are pushed; Inferless then loads them from there.
        int8: Whether the weights need torchao.
    """
    sampling: Mapping[str, Any] = (source.config or {}).get("sample") or {}
    vllm = versions().get("vllm", VLLM).partition("+")[0]
    torchao = [f"torchao=={_installed('torchao')}"] if int8 else []
    for file in FILES:
        write_template(
            file,
            to,
            name=source.name,
            repository=repository,
            temperature=float(sampling.get("temperature", 1.0)),
            top_p=float(sampling.get("top_p", 1.0)),
            top_k=int(sampling.get("top_k", 0)),
            vllm=vllm,
            inferless=INFERLESS,
            packages=[f"vllm=={vllm}", *torchao],
            torchao="".join(torchao),
        )


def write_template(file: str, to: Path, **values: Any) -> None:
    """Fills in the template of one file."""
    text = _environment().get_template(f"{file}.j2").render(**values)
    (to / file).write_text(text, encoding="utf-8")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path, without metadata
        return __import__(package).__version__


@cache
def _environment() -> Environment:
    return environment("rankdistill.export", escape=False, last_newline=True)
