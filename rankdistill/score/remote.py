"""Log-probabilities of responses from a teacher that vLLM serves: here, or for somebody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import httpx

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.http_client import AGAIN, KEY_VARIABLE, check_url, client, pause_s
from rankdistill.models import Model
from rankdistill.sample.vllm import VLLMSampler

CONCURRENCY = 32
RETRIES = 5
"""Times that a request is sent again, half a minute in all."""


class RemoteTeacher:
    """A `vllm serve`, asked for the log-probabilities of its prompts (`prompt_logprobs`).

    Args:
        url: Of the API, for example http://localhost:8000/v1; what it serves first is the teacher.
        transport: Of httpx, for tests.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        check_url("score.through", url, KEY_VARIABLE)
        self.url = url.rstrip("/")
        limits = httpx.Limits(max_connections=CONCURRENCY)
        self._client = client(self.url, limits=limits, transport=transport)

    def model(self) -> str:
        """The name of what it serves.

        Raises:
            UserError: nobody is there, or the key is refused.
        """
        answer = self._asked("GET", "models")
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise UserError(
                f"{self.url} (score.through) serves no model: give the URL of a `vllm serve`, "
                "such as http://localhost:8000/v1."
            ) from None

    def check(self) -> None:
        """UserError where it cannot say log-probabilities of a prompt; asks it for two tokens'."""
        self._logps(self.model(), [0, 0], 1)

    def logps(self, groups: Sequence[TokenGroup]) -> Iterator[list[float]]:
        """One group after the other, the log-probability of each of its responses, nats.

        Sums over the response's tokens at temperature 1. `groups` are in the teacher's tokens.
        """
        model = self.model()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for first in range(0, len(groups), CONCURRENCY):
                asked = [
                    [
                        pool.submit(self._logps, model, [*group.prompt, *r], len(group.prompt))
                        for r in group.responses
                    ]
                    for group in groups[first : first + CONCURRENCY]
                ]
                for group in asked:
                    yield [future.result() for future in group]

    def _logps(self, model: str, tokens: Sequence[int], start: int) -> float:
        """The sum of the log-probabilities of `tokens[start:]`, each given those before it."""
        body = {
            "model": model,
            "prompt": list(map(int, tokens)),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = self._asked("POST", "completions", body)
        try:
            rows = answer["choices"][0]["prompt_logprobs"]
            return sum(
                float(rows[at][str(tokens[at])]["logprob"]) for at in range(start, len(tokens))
            )
        except (KeyError, IndexError, TypeError):
            raise UserError(
                f"{self.url} (score.through) gives no prompt_logprobs of the tokens it is sent: it "
                "must be a `vllm serve` of the model that teacher.path names."
            ) from None

    def _asked(self, method: str, what: str, body: dict[str, Any] | None = None) -> Any:
        for attempt in range(1, RETRIES + 2):
            try:
                response = self._client.request(method, f"{self.url}/{what}", json=body)
                why = str(response.status_code)
                if response.status_code == 200:
                    return response.json()
            except (httpx.HTTPError, ValueError) as error:
                response, why = None, type(error).__name__
            if response is not None and response.status_code in (401, 403):
                raise UserError(
                    f"{self.url} (score.through) answers {why}: set the environment variable "
                    f"{KEY_VARIABLE} to its key."
                )
            if response is not None and response.status_code not in (200, *AGAIN):
                raise UserError(
                    f"{self.url} (score.through) refuses /{what} ({why}): it must be a `vllm "
                    "serve` of the model that teacher.path names, with room for its longest group."
                )
            # Nobody there at start-up is a mistake; in the middle of a run it may come back.
            if attempt > RETRIES or what == "models":
                break
            time.sleep(pause_s(attempt, response))
        raise UserError(
            f"{self.url} (score.through) does not answer ({why}): start it with `vllm serve`, and "
            "run the same command again; what was scored is kept."
        )


def served_logps(
    engine: VLLMSampler, model: Model, groups: Sequence[TokenGroup]
) -> Iterator[list[float]]:
    """One group after the other, the log-probability of each of its responses, nats.

    Sums over the response's tokens at temperature 1, as `rankdistill.forward.response_logps` gives
    them. The engine has one such pass at a time.

    Args:
        model: What the engine serves.
        groups: In the tokens of that model.
    """
    pairs = [(group.prompt, response) for group in groups for response in group.responses]
    with closing(engine.response_logps(model, pairs)) as found:
        for group in groups:
            yield [sum(logps) for logps in islice(found, len(group.responses))]
