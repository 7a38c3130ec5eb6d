"""The process that owns a vLLM engine: JSON lines in, JSON lines out, until its input ends.

vLLM leaves `torch.distributed` initialised and keeps its memory, so it never runs in the process that
trains. Requests and answers are those of `rankdistill.sample.vllm`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

PR_SET_PDEATHSIG = 1


class Worker:
    """Holds the engine between requests."""

    def __init__(self) -> None:
        self.llm: Any = None

    def start(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Load a model and its engine: `engine` are keyword arguments of `vllm.LLM`."""
        from vllm import LLM

        self.llm = LLM(**request["engine"])
        yield {"ready": True}

    def reload(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Take the weights of another folder, of a model of the same shape."""
        folder = request["weights_path"]
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()
        yield {"ready": True}

    def sample(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The responses of one prompt after the other, in the order of `prompts`."""
        from vllm import SamplingParams

        engine = self.llm.llm_engine
        seeds: list[list[int]] = request["seeds"]
        for row, (prompt, row_seeds) in enumerate(zip(request["prompts"], seeds, strict=True)):
            for k, seed in enumerate(row_seeds):
                params = SamplingParams(seed=seed, detokenize=False, **request["params"])
                engine.add_request(f"{row}-{k}", {"prompt_token_ids": prompt}, params)
        finished: dict[int, dict[int, dict[str, Any]]] = {row: {} for row in range(len(seeds))}
        shown = 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    row, k = map(int, output.request_id.split("-")[:2])
                    only = output.outputs[0]
                    finished[row][k] = {
                        "token_ids": list(only.token_ids),
                        "finish_reason": only.finish_reason,
                    }
            while shown < len(seeds) and len(finished[shown]) == len(seeds[shown]):
                answers = finished.pop(shown)
                yield {"row": shown, "responses": [answers[k] for k in sorted(answers)]}
                shown += 1

    def logps(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The log-probability of every response token, at temperature 1, for (prompt, response) pairs."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        pairs = request["pairs"]
        inputs = [{"prompt_token_ids": prompt + response} for prompt, response in pairs]
        for (prompt, response), output in zip(
            pairs, self.llm.generate(inputs, params, use_tqdm=False), strict=True
        ):
            after = output.prompt_logprobs[len(prompt) :]
            yield {
                "logps": [step[token].logprob for token, step in zip(response, after, strict=True)]
            }


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Answer every line of `requests`; an answer ends with a line that has `done`."""
    for line in requests:
        request = json.loads(line)
        for answer in getattr(worker, request.pop("do"))(request):
            print(json.dumps(answer), file=answers, flush=True)
        print(json.dumps({"done": True}), file=answers, flush=True)


def main() -> None:
    """Serve on the standard streams; what libraries print goes to standard error."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # do not outlive the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Worker(), sys.stdin, answers)
    os._exit(0)  # vLLM's own teardown can hang


if __name__ == "__main__":
    main()
