"""Sampling with vLLM, in child processes that are gone when training begins."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from rankdistill.errors import UserError
from rankdistill.models import Loading, Model, Thoughts, export_untied
from rankdistill.rows import Response
from rankdistill.sample.model_folder import (
    EngineFolder,
    check_positions,
    contents,
    max_positions,
    shape,
    stop_ids,
    to_response,
)
from rankdistill.sample.sampler import Request, Sampler, SamplingOptions, response_seed
from rankdistill.sample.vllm_process import Answers, VLLMProcess

LENGTH_STEP = 256
"""The engine's context is rounded up to this, so that few changes of length restart it."""


MOST_AT_ONCE = 1024
"""What vLLM decodes at once by itself on an H100; on other cards it is 256."""
ON_CPU = 64
"""On a CPU, whose keys and values are given 1 GiB."""
MOST_ENGINES = 4
"""That are started by themselves: vLLM draws the tokens of seeded requests one by one on one core,
so that engines of few cores each write more than one of all."""
ENGINE_BYTES = 2 << 30
"""Of an engine on a CPU beside its weights: keys and values, libraries."""
WORTH_AN_ENGINE = 64
"""Responses from which on a further engine saves more than its start takes."""


class VLLMSampler(Sampler):
    """Starts engines at the first call and keeps them; weights of the same shape are swapped in.

    Every response is a request of its own with a seed of its own; full blocks of a prompt's keys
    and values are computed once for all of them. What else is in a batch changes the rounding of
    the logits, and with it a token where two of them all but tie in the draw.

    Args:
        dtype: Of the engine: float32, bfloat16, float16, or auto for vLLM's choice.
        gpu_memory_utilization: Share of a GPU's memory that an engine may use.
        max_num_seqs: Most responses that an engine decodes at once; None: vLLM's choice for the
            card, 64 on a CPU.
        tensor_parallel: GPUs that one engine is spread over.
        data_parallel: Engines, each with GPUs or cores of its own, that share the prompts. The
            GPUs of CUDA_VISIBLE_DEVICES are dealt out in their order; how that runs on real ones
            is not tested. None: one on GPUs; on CPUs one per core, at most 4, as far as the work
            is worth their start and half of the free memory holds them.

    Raises:
        UserError: more GPUs are asked for than there are.
    """

    name = "vllm"

    def __init__(
        self,
        *,
        dtype: str = "float32",
        gpu_memory_utilization: float = 0.85,
        max_num_seqs: int | None = None,
        tensor_parallel: int = 1,
        data_parallel: int | None = None,
    ) -> None:
        self.max_num_seqs, at_once = decoded_at_once(max_num_seqs)
        self._engines, self._gpus_each = data_parallel, tensor_parallel
        environments(data_parallel or 1, tensor_parallel)  # refused here, before any work
        self._arguments = {
            "dtype": dtype,
            **at_once,
            "tensor_parallel_size": tensor_parallel,
        }
        self._share = gpu_memory_utilization
        self._answers: Answers = queue.Queue()
        self._processes: list[VLLMProcess] = []
        self._folder: EngineFolder | None = None
        self._model: Any = None
        self._shape: dict[str, Any] = {}
        self._length = 0

    def computes_in(self, loading: Loading) -> str | None:
        """The engine's precision, see `Sampler`; not known where vLLM chooses it."""
        dtype = self._arguments["dtype"]
        return None if dtype == "auto" else dtype

    def prompts_at_once(self, options: SamplingOptions) -> int:
        """As many as an engine decodes at once."""
        return max(1, self.max_num_seqs // options.responses_per_prompt)

    def prepare(self, model: Model, requests: Sequence[Request], options: SamplingOptions) -> None:
        """Start the engines, or swap the weights; see `Sampler.prepare`."""
        prompts = [ids for _, ids in requests]
        length = check_positions(model.folder, prompts, options.max_response_tokens)
        self._serve(model, length, len(requests) * options.responses_per_prompt)

    def sample(
        self,
        model: Model,
        requests: Sequence[Request],
        options: SamplingOptions,
        source: str,
        *,
        done: Collection[str] = (),
    ) -> Iterator[tuple[str, list[Response]]]:
        """(prompt id, its responses) in the given order; see `Sampler.sample`."""
        left = [request for request in requests if request[0] not in set(done)]
        if not left:
            return
        tokenizer = model.tokenizer()
        ends = stop_ids(model.folder, tokenizer)
        prompts = [ids for _, ids in left]
        length = check_positions(model.folder, prompts, options.max_response_tokens)
        # At temperature 0 the responses are the same: one is computed.
        drawn = options.responses_per_prompt if options.temperature > 0 else 1
        self._serve(model, length, len(requests) * drawn)
        params = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "max_tokens": options.max_response_tokens,
            "stop_token_ids": ends,
        }
        seeds = [[response_seed(options.seed, name, k) for k in range(drawn)] for name, _ in left]
        jobs = [
            {"do": "sample", "prompt": list(ids), "seeds": row, "params": params}
            for ids, row in zip(prompts, seeds, strict=True)
        ]
        thoughts = Thoughts.of(tokenizer)
        for (prompt_id, prompt), answer in zip(left, self._answered(jobs, drawn), strict=True):
            rows = answer["responses"] * (options.responses_per_prompt // drawn)
            responses = (to_response(tokenizer, list(ids), ends, source) for ids in rows)
            yield prompt_id, [thoughts.apart(prompt, response) for response in responses]

    def response_logps(
        self, model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Generator[list[float]]:
        """See `Sampler`; one after the other, as they are finished."""
        for answer in self._scored(model, pairs):
            yield answer["logps"]

    def top_logps(
        self, model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], k: int
    ) -> Iterator[tuple[list[list[int]], list[list[float]]]]:
        """The k likeliest tokens at every token of the responses, and their log-probabilities.

        Of every pair in its order: ids and values, `[response token][k]`, likeliest first, at
        temperature 1, unfiltered, nats.

        Args:
            model: Weights and tokenizer in a folder.
            pairs: (prompt ids, response ids).
            k: At most the vocabulary.
        """
        for answer in self._scored(model, pairs, k=k):
            yield answer["ids"], answer["values"]

    def _scored(
        self, model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], **options: Any
    ) -> Iterator[dict[str, Any]]:
        if not pairs:
            return
        texts = [[*prompt, *response] for prompt, response in pairs]
        # The engine writes one more token.
        self._serve(model, check_positions(model.folder, texts, 1), 1)
        jobs = [
            {"do": "logps", "prompt": list(prompt), "response": list(response), **options}
            for prompt, response in pairs
        ]
        yield from self._answered(jobs, 1)

    def close(self) -> None:
        """End the engines and remove their files."""
        for process in self._processes:
            process.close()
        self._processes, self._model, self._answers = [], None, queue.Queue()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _serve(self, model: Model, length: int, responses: int) -> None:
        """Have the engines hold `model`, with a context of at least `length` tokens.

        As many as `responses` are worth; more that run already are kept.
        """
        trusted = model.loading.trust_remote_code
        key = (model.folder, contents(model.folder), trusted)
        model_shape = {**shape(model.folder), "trust_remote_code": trusted}
        engines = self._engines or self._worth(model.folder, responses)
        few = len(self._processes) < engines
        if self._processes and (few or model_shape != self._shape or length > self._length):
            self.close()
        if self._processes and self._model == key:
            return
        if self._folder is None:
            self._folder = EngineFolder()
        # vLLM finds what it compiled by the name it is given: the same for the same shape.
        name = hashlib.sha256(json.dumps(model_shape, sort_keys=True).encode()).hexdigest()[:12]
        weights = self._folder.path / name
        # Untied: on a CPU, reloading tied weights silently leaves the LM head as it was.
        export_untied(model.folder, weights, trust_remote_code=trusted)
        try:
            if self._processes:
                self._model = None
                self._ask_all({"do": "reload", "weights_path": str(weights)})
            else:
                self._length = -(-length // LENGTH_STEP) * LENGTH_STEP
                self._length = min(self._length, max_positions(model.folder) or self._length)
                self._start(weights, trusted, engines)
        finally:
            shutil.rmtree(weights, ignore_errors=True)
        self._model, self._shape = key, model_shape

    @staticmethod
    def _worth(folder: Path, responses: int) -> int:
        """Engines by the work, the cores and the memory."""
        if torch.cuda.is_available():
            return 1
        weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        room = psutil.virtual_memory().available // 2 // (weights + ENGINE_BYTES)
        most = min(MOST_ENGINES, torch.get_num_threads(), room, responses // WORTH_AN_ENGINE)
        return max(1, most)

    def _start(self, weights: Path, trusted: bool, engines: int) -> None:
        assert self._folder is not None
        arguments = {
            **self._arguments,
            **device_arguments(self._share, self._length),
            "model": weights.name,
            "max_model_len": self._length,
            "skip_tokenizer_init": True,
            "trust_remote_code": trusted,
            "generation_config": "vllm",
            "seed": 0,
            "max_logprobs": -1,  # as many as are asked for; 20 otherwise
        }
        for number, environment in enumerate(environments(engines, self._gpus_each)):
            folder = self._folder.path / str(number)
            folder.mkdir()
            self._processes.append(VLLMProcess(folder, self._answers, environment))
        self._ask_all({"do": "start", "engine": arguments, "folder": str(self._folder.path)})

    def _ask_all(self, request: Mapping[str, Any]) -> None:
        """Send to every engine, and wait until each has answered."""
        for process in self._processes:
            process.send(request)
        for _ in self._processes:
            self._receive()

    def _receive(self) -> tuple[VLLMProcess, dict[str, Any]]:
        process, answer = self._answers.get()
        if answer is None:
            error = process.death()
            self.close()
            raise error
        return process, answer

    def _answered(
        self, jobs: Sequence[Mapping[str, Any]], responses: int
    ) -> Iterator[dict[str, Any]]:
        """The answers in the order of `jobs`; each engine has about two full batches in hand."""
        room = 2 * self.max_num_seqs // responses + 1
        early: dict[int, dict[str, Any]] = {}
        sent = 0
        try:
            for number in range(len(jobs)):
                while number not in early:
                    least = min(self._processes, key=lambda process: process.in_flight)
                    while sent < len(jobs) and least.in_flight < room:
                        least.send({"id": sent, **jobs[sent]})
                        least.in_flight += 1
                        sent += 1
                        least = min(self._processes, key=lambda process: process.in_flight)
                    process, answer = self._receive()
                    process.in_flight -= 1
                    early[answer["id"]] = answer
                yield early.pop(number)
        finally:
            self._cancel()

    def _cancel(self) -> None:
        """Have engines drop what they still work on, after a caller has left early."""
        busy = [process for process in self._processes if process.in_flight]
        for process in busy:
            process.send({"do": "cancel"})
            process.in_flight = 0
        cancelled = 0
        while cancelled < len(busy):
            cancelled += "cancelled" in self._receive()[1]


CPU_ARGUMENTS = {"enforce_eager": True, "block_size": 32}
"""Compiling costs more than it saves. Blocks of 32 tokens, so that short prompts are shared too."""


def decoded_at_once(asked: int | None = None) -> tuple[int, dict[str, int]]:
    """Most sequences that an engine decodes at once, and the argument that says so.

    Without it vLLM chooses, which it does by the card. On a CPU there are `ON_CPU`.
    """
    if asked is None and torch.cuda.is_available():
        return MOST_AT_ONCE, {}
    most = asked or ON_CPU
    return most, {"max_num_seqs": most}


def device_arguments(gpu_memory_utilization: float, length: int | None = None) -> dict[str, Any]:
    """Of an engine, by what it runs on.

    Args:
        length: Tokens of its longest sequence, where prompts must not be split: vLLM on a CPU
            cannot take a seeded request in two parts.
    """
    if torch.cuda.is_available():
        return {"gpu_memory_utilization": gpu_memory_utilization}
    if length is None:
        return CPU_ARGUMENTS
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(length, 2048)}
    return {**CPU_ARGUMENTS, **whole}


def environments(
    engines: int, gpus_each: int, key: str = "sample.tensor_parallel"
) -> list[dict[str, str]]:
    """What every engine's environment adds: the devices, or the threads, that are its own.

    Args:
        key: That says `gpus_each`.

    Raises:
        UserError: there are not as many GPUs.
    """
    if not torch.cuda.is_available():
        if gpus_each > 1:
            raise UserError(
                f"{key}={gpus_each} spreads an engine over GPUs, and there are none: leave it at 1."
            )
        threads = max(1, torch.get_num_threads() // engines)
        return [{"OMP_NUM_THREADS": str(threads)} if engines > 1 else {} for _ in range(engines)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    if engines * gpus_each > len(visible):
        more = f"sample.data_parallel={engines} and " if engines > 1 else ""
        raise UserError(
            f"There are {len(visible)} GPUs, and {more}{key}={gpus_each} ask for "
            f"{engines * gpus_each}: lower {'one of them' if more else 'it'}."
        )
    if engines * gpus_each == 1:  # of several processes of a machine, each has its own
        visible = [visible[int(os.environ.get("LOCAL_RANK") or 0) % len(visible)]]
    shares = [visible[i * gpus_each : (i + 1) * gpus_each] for i in range(engines)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
