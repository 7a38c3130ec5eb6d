"""A judge on this machine: vLLM with structured output, in a child process."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import Counter
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

from rankdistill.endpoint import Answer
from rankdistill.errors import UserError
from rankdistill.models import Model, Thoughts, encode_prompt
from rankdistill.rows import Response
from rankdistill.sample.model_folder import max_positions
from rankdistill.sample.vllm import decoded_at_once, device_arguments, environments
from rankdistill.sample.vllm_process import Answers, VLLMProcess
from rankdistill.score.judge.endpoint import TOP_LOGPROBS
from rankdistill.score.judge.modes import Question
from rankdistill.score.judge.verdicts import Reply, Step
from rankdistill.score.schema import JudgeOptions

LONGEST = 8192
"""Tokens of a question and its answer, at most, where the model has more positions."""


class Engine:
    """Starts a vLLM process with its first question; ends with `close`, or with this process.

    Args:
        model: The judge.
        options: How it is run, and how it answers.
        seed: Of its answers.
    """

    def __init__(self, model: Model, options: JudgeOptions, seed: int) -> None:
        self._options, self._seed = options, seed
        folder = model.folder
        self._tokenizer: Any = model.tokenizer()
        self._thoughts = Thoughts.of(self._tokenizer)
        self._length = min(max_positions(folder) or LONGEST, LONGEST)
        self._pending: dict[int, tuple[Question, int, Future[Answer]]] = {}
        self._number, self._closed = 0, False
        self._scratch = tempfile.TemporaryDirectory(prefix="rankdistill-judge-")
        self._answers: Answers = queue.Queue()
        gpus = options.tensor_parallel_size
        [own] = environments(1, gpus, "score.tensor_parallel_size")
        self._process = VLLMProcess(Path(self._scratch.name), self._answers, own)
        self._token = lru_cache(None)(lambda id: self._tokenizer.decode([id]))
        most, at_once = decoded_at_once()
        self.capacity = 2 * most
        """Questions that it has in hand, so that none of its places waits for the next."""
        arguments = {
            "model": str(folder),
            "dtype": options.dtype,
            **at_once,
            "tensor_parallel_size": options.tensor_parallel_size,
            "max_model_len": self._length,
            "generation_config": "vllm",
            "seed": 0,
            "trust_remote_code": model.loading.trust_remote_code,
            **device_arguments(options.gpu_memory_utilization, self._length),
        }
        self._process.send({"do": "start", "engine": arguments})
        if self._answers.get()[1] is None:
            raise self._death()
        threading.Thread(target=self._read, daemon=True).start()

    def submit(self, question: Question) -> Future[Answer]:
        """A question that is too long for the model is set aside."""
        options, future = self._options, Future()
        prompt = encode_prompt(self._tokenizer, question.messages)
        if len(prompt) + options.max_answer_tokens > self._length:
            future.set_result(Answer(None, Counter(set_aside=1, too_long=1)))
            return future
        self._number += 1
        self._pending[self._number] = question, len(prompt), future
        params: dict[str, Any] = {
            "temperature": options.temperature,
            "max_tokens": options.max_answer_tokens,
            "stop_token_ids": [self._tokenizer.eos_token_id],
        }
        if options.temperature > 0:
            params["seed"] = self._seed + self._number
        if question.form.logprobs:
            params["logprobs"] = TOP_LOGPROBS
        self._process.send(
            {
                "do": "judge",
                "id": self._number,
                "prompt": prompt,
                "schema": question.form.schema,
                "params": params,
            }
        )
        return future

    def close(self) -> None:
        self._closed = True
        self._process.close()
        self._scratch.cleanup()

    def _read(self) -> None:
        """Hand every answer to whoever waits for it; when the process ends, tell them all."""
        while (answer := self._answers.get()[1]) is not None:
            question, asked, future = self._pending.pop(answer["id"])
            try:
                future.set_result(self._answer(question, asked, answer))
            except Exception as error:
                future.set_exception(error)
        if not self._closed and self._pending:
            death = self._process.death()
            for _, _, future in list(self._pending.values()):
                future.set_exception(death)

    def _answer(self, question: Question, asked: int, answer: dict[str, Any]) -> Answer:
        tokens = answer["tokens"]
        counts = Counter(calls=1, prompt_tokens=asked, completion_tokens=len(tokens))
        said = Response(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            token_ids=tokens,
            finish_reason="length" if answer["cut"] else "stop",
            source="judge",
        )
        text = self._thoughts.apart([], said)["text"]
        steps: list[Step] = [
            (self._token(token), {self._token(int(i)): logp for i, logp in step.items()})
            for token, step in zip(tokens, answer["steps"], strict=False)
        ]
        verdict = None if answer["cut"] else question.form.read(Reply(text, steps))
        if verdict is None:
            counts.update(not_in_form=1, set_aside=1)
        return Answer(verdict, counts)

    def _death(self) -> UserError:
        error = self._process.death()
        self.close()
        return error
