"""A model of lm-eval whose answers are kept in the store as they come; lm-eval's vLLM back end."""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM

from rankdistill.console import progress
from rankdistill.store import Shards

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run

_BATCHES_KEPT = {"loglikelihood": 8, "loglikelihood_rolling": 8, "generate_until": 2}
"""Batches whose answers are written at once: lm-eval sorts the requests of a call by length, and of
a call of vLLM the longest answers are waited for."""
_PROCESSES = "VLLM_ENABLE_V1_MULTIPROCESSING"


class Resuming(LM):
    """Passes lm-eval's requests on, some at a time, and answers those that it has the answer to.

    lm-eval's own cache holds pickled answers in a data base, which our store does not.

    Args:
        lm: Who answers.
        shards: Where the answers are kept: rows of `request`, a hash, and `answer`.
        batch_size: Requests that the model is asked at once. A killed run loses `_BATCHES_KEPT`
            batches at most.
    """

    def __init__(self, lm: Any, shards: Shards, batch_size: int) -> None:
        super().__init__()
        self._lm, self._shards, self._batch_size = lm, shards, batch_size
        self._known = {row["request"]: row["answer"] for row in shards.rows()}

    @property
    def tokenizer_name(self) -> str:
        return self._lm.tokenizer_name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._lm.chat_template(chat_template)

    def apply_chat_template(self, *arguments: Any, **named: Any) -> str:
        return self._lm.apply_chat_template(*arguments, **named)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """(log-probability of the continuation, whether it is the greedy one) of every request."""
        return [tuple(answer) for answer in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Any]) -> list[Any]:
        return self._answers("generate_until", requests)

    def _answers(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        names = [_name(kind, request.args) for request in requests]
        left = [i for i, name in enumerate(names) if name not in self._known]
        at_once = _BATCHES_KEPT[kind] * self._batch_size
        with progress(len(requests), "requests", done=len(requests) - len(left)) as bar:
            for start in range(0, len(left), at_once):
                part = left[start : start + at_once]
                answers = getattr(self._lm, kind)([requests[i] for i in part], disable_tqdm=True)
                rows = [
                    {"request": names[i], "answer": answer}
                    for i, answer in zip(part, answers, strict=True)
                ]
                self._shards.append(rows)
                self._known.update((row["request"], row["answer"]) for row in rows)
                bar.advance(len(part))
        return [self._known[name] for name in names]


def _name(kind: str, arguments: Any) -> str:
    text = json.dumps([kind, *arguments], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def vllm_model(run: Run, model: Model, batch_size: int) -> Iterator[Any]:
    """lm-eval's `VLLM` of a model, with the engine's options of `sample.vllm`; ends its engine.

    All requests of a call go to the engine, which answers `batch_size` of them at once: in batches
    of lm-eval's each waits for its longest answer.
    """
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
    with nullcontext() if torch.cuda.is_available() else _in_this_process():
        lm = served(
            pretrained=model.path,
            dtype=options.dtype,
            batch_size="auto",
            max_num_seqs=batch_size,
            trust_remote_code=model.loading.trust_remote_code,
            **arguments,
        )
        # Its own gives the template an `enable_thinking` that nobody has set.
        lm.apply_chat_template = partial(_chat, model.tokenizer())
        try:
            yield lm
        finally:
            # Its processes would keep the memory until this one ends.
            lm.model.llm_engine.engine_core.shutdown()


@contextmanager
def _in_this_process() -> Iterator[None]:
    """An engine for a CPU, and what it changes put back.

    By itself it would be two processes, which ask each other without a pause for what to do: that
    takes as long as the answers do where there are no more cores, and 20 s to start.
    """
    from vllm.distributed import cleanup_dist_env_and_memory

    set_threads = torch.set_num_threads  # which the engine's worker takes away
    before = os.environ.get(_PROCESSES)
    os.environ[_PROCESSES] = "0"
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        cleanup_dist_env_and_memory()
        if before is None:
            del os.environ[_PROCESSES]
        else:
            os.environ[_PROCESSES] = before


def _chat(tokenizer: Any, history: list[Any], add_generation_prompt: bool = True) -> str:
    return tokenizer.apply_chat_template(
        history,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )


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
