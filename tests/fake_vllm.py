"""Stands for the package `vllm` in the sampler's child process: counts instead of computing.

A token is a hash of prompt, seed, weights and step; responses end after as many steps as their seed
says, so later requests finish before earlier ones. What happens is appended to $FAKE_VLLM_LOG.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

EOS = 2


def record(event: str, **details: Any) -> None:
    with Path(os.environ["FAKE_VLLM_LOG"]).open("a") as log:
        log.write(json.dumps({"event": event, "pid": os.getpid(), **details}) + "\n")


class LLM:
    def __init__(self, **arguments: Any) -> None:
        if failure := os.environ.get("FAKE_VLLM_FAILURE"):
            raise RuntimeError(failure)
        environment = {
            k: v for k, v in os.environ.items() if "RANK" in k or "VLLM" in k or "OMP" in k
        }
        if lingers := os.environ.get("FAKE_VLLM_WORKER"):  # as with tensor_parallel: outlives it
            record("worker", worker=subprocess.Popen(["sleep", lingers]).pid)
        record("start", arguments=arguments, environment=environment)
        print("a library prints to standard output")
        self.llm_engine = Engine(arguments["model"])

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        record(method)
        self.llm_engine.weights = weights_of(kwargs["weights_path"])

    def reset_prefix_cache(self) -> None:
        record("reset_prefix_cache")


def weights_of(folder: str) -> str:
    settings = json.loads((Path(folder) / "config.json").read_text())
    assert not settings["tie_word_embeddings"]
    return (Path(folder) / "weights.txt").read_text()


class Engine:
    def __init__(self, folder: str) -> None:
        self.weights = weights_of(folder)
        self.running: dict[str, tuple[list[int], Any, list[int]]] = {}

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        self.running[name] = (prompt["prompt_token_ids"], params, [])
        record("add", name=name, running=len(self.running), params=vars(params))

    def abort_request(self, names: list[str]) -> None:
        record("abort")
        for name in names:
            self.running.pop(name, None)

    def step(self) -> list[Any]:
        time.sleep(float(os.environ.get("FAKE_VLLM_STEP", "0")))
        finished = []
        for name, (prompt, params, tokens) in list(self.running.items()):
            seed = getattr(params, "seed", None) or 0
            ended = len(tokens) == seed % 7
            token = EOS if ended else 3 + hash((*prompt, seed, self.weights, len(tokens))) % 200
            tokens.append(token)
            if ended or len(tokens) == params.max_tokens:
                del self.running[name]
                k = getattr(params, "prompt_logprobs", None) or 0
                likeliest = {t: SimpleNamespace(logprob=-t - 1.0, rank=t + 1) for t in range(k)}
                logps = [
                    {t: SimpleNamespace(logprob=-t / 100, rank=t + 1)} | likeliest for t in prompt
                ]
                finished.append(
                    SimpleNamespace(
                        request_id=name, finished=True, prompt_logprobs=logps,
                        outputs=[SimpleNamespace(token_ids=tuple(tokens))],
                    )
                )  # fmt: skip
        return finished


class SamplingParams(SimpleNamespace):
    pass


sampling_params = ModuleType("vllm.sampling_params")
sampling_params.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")  # type: ignore[attr-defined]
__import__("sys").modules["vllm.sampling_params"] = sampling_params
