"""The process that owns a vLLM engine: JSON lines in, JSON lines out.

vLLM leaves `torch.distributed` initialised and keeps its memory, so it never runs in the process
that trains. It starts in seconds because it imports nothing else of the package. Requests (`do`)
and their answers, which `rankdistill.sample.vllm` and `rankdistill.score.judge.engine` send and
read:

    start   engine: arguments of vllm.LLM, folder   {"ready": true}
    reload  weights_path                            {"ready": true}
    sample  id, prompt, seeds, params               {"id": id, "responses": [[token, ...], ...]}
    logps   id, prompt, response                    {"id": id, "logps": [...]}
    logps   id, prompt, response, k                 {"id": id, "ids": [[..k], ...], "values": same}
    judge   id, prompt, schema, params              {"id": id, "tokens": [...], "cut": bool,
                                                     "steps": [...]}
    cancel                                          {"cancelled": true}

A judge's answer is one that a JSON schema allows; `steps` has the log-probabilities of the
likeliest tokens at each of its tokens, by token id, and is empty where `params` do not ask for
them. Answers come as they are finished, in any order. The process ends when its input ends,
whatever it is doing, so it does not outlive its parent; an error ends it with a traceback on
standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

PR_SET_PDEATHSIG = 1
MARGIN = 0.02
"""Share of a GPU's memory that an engine leaves to what else grows on it while it starts."""


class Worker:
    """Holds the engine, and the requests that it works on."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._llm: Any = None
        self._responses: dict[int, list[list[int] | None]] = {}
        """What there is of the responses of every `sample` request that is not answered."""
        self._texts: dict[int, tuple[int, list[int], int]] = {}
        """Prompt length, response and k of every `logps` request that is not answered."""
        self._judged: set[int] = set()
        """Numbers of the `judge` requests that are not answered."""

    def work(self, requests: queue.Queue[dict[str, Any]]) -> None:
        """Take requests as they come, and one step of the engine after the other, for ever."""
        while True:
            busy = self._llm is not None and self._llm.llm_engine.has_unfinished_requests()
            try:
                while True:
                    request = requests.get(block=not busy)
                    getattr(self, request.pop("do"))(**request)
                    busy = True
            except queue.Empty:
                self._step()

    def start(self, engine: dict[str, Any], folder: str | None = None) -> None:
        """Load a model; `engine` are keyword arguments of `vllm.LLM`, paths are from `folder`."""
        from vllm import LLM

        if folder is not None:
            os.chdir(folder)
        if "gpu_memory_utilization" in engine:
            engine["gpu_memory_utilization"] = free_share(engine["gpu_memory_utilization"])
        self._llm = LLM(**engine)
        self._answer(ready=True)

    def reload(self, weights_path: str) -> None:
        """Take the weights of another folder, of a model of the same shape."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": weights_path})
        self._llm.reset_prefix_cache()
        self._answer(ready=True)

    def sample(self, id: int, prompt: list[int], seeds: list[int], params: dict[str, Any]) -> None:
        """One response per seed: a request each, since vLLM's `n` counts up from one seed."""
        self._responses[id] = [None] * len(seeds)
        for k, seed in enumerate(seeds):
            self._add(f"{id}-{k}", prompt, seed=seed, **params)

    def logps(self, id: int, prompt: list[int], response: list[int], k: int = 0) -> None:
        """The log-probability of every token of `response`, or those of the k likeliest there."""
        self._texts[id] = len(prompt), response, k
        self._add(f"{id}-0", prompt + response, max_tokens=1, temperature=0.0, prompt_logprobs=k)

    def judge(
        self, id: int, prompt: list[int], schema: dict[str, Any], params: dict[str, Any]
    ) -> None:
        """One text that the schema allows."""
        from vllm.sampling_params import StructuredOutputsParams

        self._judged.add(id)
        self._add(
            f"{id}-0", prompt, structured_outputs=StructuredOutputsParams(json=schema), **params
        )

    def cancel(self) -> None:
        """Forget all requests."""
        names = [f"{id}-{k}" for id, rows in self._responses.items() for k in range(len(rows))]
        names += [f"{id}-0" for id in (*self._texts, *self._judged)]
        self._llm.llm_engine.abort_request(names)
        self._responses, self._texts, self._judged = {}, {}, set()
        self._answer(cancelled=True)

    def _add(self, name: str, token_ids: list[int], **params: Any) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = SamplingParams(
            detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **params
        )
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": token_ids}, settings)

    def _step(self) -> None:
        if not self._llm.llm_engine.has_unfinished_requests():
            return
        for output in self._llm.llm_engine.step():
            if not output.finished:
                continue
            id, k = map(int, output.request_id.split("-"))
            if id in self._texts:
                length, response, k = self._texts.pop(id)
                steps = output.prompt_logprobs[length:]
                if k:
                    self._answer(id=id, **_likeliest(steps, k))
                    continue
                pairs = zip(response, steps, strict=True)
                self._answer(id=id, logps=[step[token].logprob for token, step in pairs])
            elif id in self._judged:
                self._judged.remove(id)
                self._answer(id=id, **_written(output.outputs[0]))
            elif id in self._responses:
                self._responses[id][k] = list(output.outputs[0].token_ids)
                if None not in self._responses[id]:
                    self._answer(id=id, responses=self._responses.pop(id))

    def _answer(self, **answer: Any) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)


def free_share(most: float) -> float:
    """The share of a GPU's memory to ask for: `most`, or what is free less a margin.

    vLLM refuses to start where less is free than it is told to take: another process, the trainer
    above all, keeps its context and what it has loaded.
    """
    import torch

    gpus = range(torch.cuda.device_count())
    free, total = zip(*(torch.cuda.mem_get_info(gpu) for gpu in gpus), strict=True)
    least = min(part / whole for part, whole in zip(free, total, strict=True))
    return max(0.0, min(most, round(least - MARGIN, 3)))


def _likeliest(steps: Sequence[Mapping[int, Any]], k: int) -> dict[str, list[Any]]:
    """Ids and log-probabilities of the k likeliest tokens of every step.

    vLLM adds the token that stands there, with its rank, where it is none of them.
    """
    tops = [
        sorted((p.rank, token, p.logprob) for token, p in step.items() if p.rank <= k)[:k]
        for step in steps
    ]
    return {
        "ids": [[token for _, token, _ in top] for top in tops],
        "values": [[value for *_, value in top] for top in tops],
    }


def _written(text: Any) -> dict[str, Any]:
    """A judge's answer; see the module."""
    return {
        "tokens": list(text.token_ids),
        "cut": text.finish_reason == "length",
        "steps": [
            {token: entry.logprob for token, entry in step.items()} for step in text.logprobs or []
        ],
    }


def read(lines: TextIO, requests: queue.Queue[dict[str, Any]]) -> None:
    """Queue every line; at the end of the input, end the process."""
    for line in lines:
        requests.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Serve on the standard streams; what libraries print goes to standard error."""
    if len(sys.argv) > 1 and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            os._exit(0)
    # An interrupt from the terminal reaches parent and child; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=read, args=(sys.stdin, requests), daemon=True).start()
    try:
        Worker(answers).work(requests)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # vLLM's own teardown can hang


if __name__ == "__main__":
    main()
