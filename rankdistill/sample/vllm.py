"""Sampling with vLLM, in a child process that is gone when training begins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import decode_response, export_untied, load_tokenizer
from rankdistill.records import Response
from rankdistill.sample.base import Request, SamplingOptions, response_seed

LENGTH_STEP = 256
"""The engine's context is rounded up to this, so that few changes of length restart it."""

DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class VLLMSampler:
    """Starts the engine at the first call; later models of the same shape are swapped in.

    Args:
        dtype: Of the engine.
        gpu_memory_utilization: Share of a GPU's memory; not used on a CPU.
        max_num_seqs: Most responses that are decoded at once.
        tensor_parallel_size: GPUs that the engine is spread over.

    Raises:
        UserError: The engine dies; the message has the last lines of its log.
    """

    name = "vllm"

    def __init__(
        self,
        *,
        dtype: str = "float32",
        gpu_memory_utilization: float = 0.85,
        max_num_seqs: int = 64,
        tensor_parallel_size: int = 1,
    ) -> None:
        self._engine = {
            "dtype": dtype,
            "max_num_seqs": max_num_seqs,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
        }
        self._child: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        self._model: Path | None = None
        self._shape: dict[str, Any] = {}
        self._length = 0

    def sample(
        self, model: Path, requests: Sequence[Request], options: SamplingOptions, source: str
    ) -> Iterator[tuple[str, list[Response]]]:
        """(prompt id, its responses) in the given order, as they are finished."""
        if not requests:
            return
        tokenizer = load_tokenizer(str(model))
        longest = max(len(ids) for _, ids in requests) + options.max_response_tokens
        self._serve(model, longest)
        count = options.responses_per_prompt
        params = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "max_tokens": options.max_response_tokens,
            "stop_token_ids": [tokenizer.eos_token_id],
        }
        seeds = [
            [response_seed(options.seed, prompt_id, k) for k in range(count)]
            for prompt_id, _ in requests
        ]
        prompts = [list(ids) for _, ids in requests]
        for answer in self._ask({"do": "sample", "prompts": prompts, "seeds": seeds, "params": params}):
            rows = [
                _response(tokenizer, row["token_ids"], source) for row in answer["responses"]
            ]
            yield requests[answer["row"]][0], rows

    def response_logps(
        self, model: Path, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> list[list[float]]:
        """The log-probability of every token of the responses, nats, at temperature 1.

        Args:
            pairs: (prompt ids, response ids).
        """
        self._serve(model, max(len(prompt) + len(response) for prompt, response in pairs) + 1)
        return [answer["logps"] for answer in self._ask({"do": "logps", "pairs": list(pairs)})]

    def close(self) -> None:
        """End the child and remove the exported weights."""
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            try:
                self._child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._model = None

    def _serve(self, model: Path, length: int) -> None:
        """Have the engine hold `model` with a context of at least `length` tokens."""
        shape = _shape(model)
        if self._child is not None and (shape != self._shape or length > self._length):
            self.close()
        if self._child is not None and self._model == model:
            return
        started = self._child is not None
        if not started:
            self._folder = Path(tempfile.mkdtemp(prefix="rankdistill-vllm-"))
        assert self._folder is not None
        weights = self._folder / "weights"
        shutil.rmtree(weights, ignore_errors=True)
        # Untied: on a CPU, reloading tied weights silently leaves the LM head as it was.
        export_untied(model, weights)
        if started:
            self._wait({"do": "reload", "weights_path": str(weights)})
        else:
            self._length = -(-length // LENGTH_STEP) * LENGTH_STEP
            self._start(weights)
        self._model, self._shape = model, shape

    def _start(self, weights: Path) -> None:
        assert self._folder is not None
        environment = {key: value for key, value in os.environ.items() if key not in DISTRIBUTED}
        environment |= {
            # The engine in the child itself: starts in 3 s instead of 23.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
        }
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        with (self._folder / "log").open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rankdistill.sample.vllm_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip
        engine = {**self._engine, "model": str(weights), "max_model_len": self._length, "seed": 0}
        self._wait({"do": "start", "engine": engine})

    def _wait(self, request: dict[str, Any]) -> None:
        for _ in self._ask(request):
            pass

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers to one request. Left before its end, the child is ended: its state is unknown."""
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        complete = False
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                answer = json.loads(line)
                if "done" in answer:
                    complete = True
                    return
                yield answer
        except BrokenPipeError:
            pass
        finally:
            if not complete:
                message = self._death()
                child.kill()
                self.close()
        raise UserError(message)

    def _death(self) -> str:
        assert self._folder is not None
        log = (self._folder / "log").read_text(errors="replace")
        if any(name in log for name in ("torchvision", "torchaudio", "torchcodec")) and "Error" in log:
            return (
                "vLLM could not start, since packages beside it do not fit its torch: "
                "`pip uninstall -y torchvision torchaudio torchcodec`, then run the same command."
            )
        last = " | ".join(line.strip() for line in log.strip().splitlines()[-3:])
        return f"the vLLM process ended; its last words: {last or 'none'}"


def _shape(model: Path) -> dict[str, Any]:
    """The model's config without what may differ between two sets of weights of one architecture."""
    config = json.loads((model / "config.json").read_text())
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}


def _response(tokenizer: Any, ids: list[int], source: str) -> Response:
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
    return {
        "text": decode_response(tokenizer, ids),
        "token_ids": ids,
        "finish_reason": "stop" if ended else "length",
        "source": source,
    }
