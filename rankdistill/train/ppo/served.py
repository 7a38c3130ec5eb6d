"""A teacher behind a `vllm serve`, asked for the log-probabilities of tokens that it is given.

vLLM alone among OpenAI-compatible servers tells them (`prompt_logprobs`); what else is there is
refused before anything is sampled.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
import torch
from transformers import PreTrainedTokenizerBase

from rankdistill.endpoint import Client, Connection, json_of, priced
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.http_client import AGAIN, pause_s
from rankdistill.schema import EndpointConfig
from rankdistill.train.ppo.readers import Reading, Readings
from rankdistill.warmup.support import support_of_logps

PROBE = "Read 3.14159 twice: naïve Zürich, Привет, 東京へ, مرحبا, 🙂🙂\n\tdef f(x):  return x**2"
"""What tokenizers part at: digits, accents, scripts, emoji, blanks, code."""
ABOVE_ZERO = 1e-3
"""Nats that a log-probability may be above 0 by rounding."""


@dataclass(frozen=True)
class ServedTeacher:
    """A served model that says what tokens are worth, and where the configuration names it."""

    endpoint: EndpointConfig
    group: str
    """`sample.endpoint`, or `train.teachers.NAME`."""


class ServedReader:
    """Has a served teacher read responses; one request each, several at once.

    Args:
        teacher: Where it is.
        top_k: Likeliest tokens that it says of each place beside the token there; 0: none.
        vocabulary: Ids that the student has.
        processes: Of this run, which share the requests.

    The log-probabilities are at temperature 1.
    """

    def __init__(
        self, teacher: ServedTeacher, top_k: int, vocabulary: int, processes: int = 1
    ) -> None:
        endpoint, group = teacher.endpoint, teacher.group
        rate = endpoint.requests_per_minute
        shared = replace(
            endpoint,
            concurrency=max(endpoint.concurrency // processes, 1),
            requests_per_minute=rate and rate / processes,
        )
        self._connection = Connection(
            shared, endpoint.urls, "The served teacher", f"{group}.urls", group, "learned",
            path="completions",
        )  # fmt: skip
        self._endpoint, self._group = endpoint, group
        self._top_k, self._vocabulary = top_k, vocabulary
        self._client: Client | None = None
        self.counts: Counter[str] = Counter()

    def __call__(self, groups: Sequence[TokenGroup]) -> Readings:
        """What it says of each response; None of one that was refused, or never answered well.

        Raises:
            UserError: it stopped answering.
        """
        if self._client is None:
            self._client = Client(self._connection)
        asked = [
            [self._submit(self._client, group.prompt, response) for response in group.responses]
            for group in groups
        ]
        found, counts = [], Counter[str]()
        try:
            answers = [[future.result() for future in group] for group in asked]
        except UserError:
            self.close()  # what is in flight would keep the process for as long as it may take
            raise
        for group in answers:
            found.append([answer.result for answer in group])
            for answer in group:
                counts.update(answer.counts)
        self.counts.update(priced(counts, self._endpoint))
        return found

    def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Ask every URL what it serves, for its tokens of a text, and for what it says of tokens.

        Args:
            tokenizer: The student's.

        Returns:
            By URL what it says that it serves, for the manifest.

        Raises:
            UserError: nobody is there, the model is not, URLs serve different ones, it says no
                log-probabilities of tokens that it is given, or its tokens are others.
        """
        with closing(Client(self._connection)) as client:
            served = client.served()
            for url in self._connection.urls:
                self._check_tokens(client, url, tokenizer)
                self._check_logps(client, url, tokenizer)
        return served

    def _submit(self, client: Client, prompt: Sequence[int], response: Sequence[int]) -> Any:
        ids = [*map(int, prompt), *map(int, response)]
        body = self._body(ids, self._top_k)
        return client.submit(lambda unread: body, partial(self._read, ids, len(prompt)))

    def _body(self, prompt: list[int] | str, top_k: int) -> dict[str, Any]:
        return {
            "model": self._endpoint.model, "prompt": prompt, "max_tokens": 1, "temperature": 0,
            "prompt_logprobs": top_k,
        }  # fmt: skip

    def _read(self, ids: Sequence[int], start: int, answer: dict[str, Any]) -> Reading | None:
        """The reading of `ids[start:]`; None where the answer does not say that of each of them."""
        try:
            rows = answer["choices"][0]["prompt_logprobs"]
            if len(rows) != len(ids):
                return None
            logps = [_logp(rows[at][str(ids[at])]) for at in range(start, len(ids))]
            if not self._top_k:
                return Reading(torch.tensor(logps))
            top = [_likeliest(rows[at], self._top_k) for at in range(start, len(ids))]
            if any(not 0 <= token < self._vocabulary for row in top for token, _ in row):
                return None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None
        pairs = torch.tensor(top, dtype=torch.float64)
        found = support_of_logps(pairs[..., 0].long(), pairs[..., 1], self._vocabulary)
        return Reading(torch.tensor(logps), found)

    def _check_tokens(self, client: Client, url: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """UserError unless it makes the student's tokens of a text."""
        text, ours = _probe(tokenizer)
        response = self._asked(client, url, self._body(text, 0))
        try:
            rows = (json_of(response) or {})["choices"][0]["prompt_logprobs"]
            # Nothing predicts the first token, so nothing is said of it.
            theirs = [ours[0], *(int(next(iter(row))) for row in rows[1:])]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration):
            raise self._says_none(client, url, response) from None
        if theirs == ours:
            return
        both = zip(ours, theirs, strict=False)
        at = next((i for i, (a, b) in enumerate(both) if a != b), min(len(ours), len(theirs)))
        raise UserError(
            f"The served teacher {url} ({self._group}) has another tokenizer than the student: it "
            f"makes {len(theirs)} tokens of a text that is {len(ours)} here, and they part at "
            f"token {at + 1}; per-token teaching needs a teacher of the student's tokenizer, and "
            "warmup=sequence learns from the text of any."
        )

    def _check_logps(self, client: Client, url: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """UserError unless it says of tokens that it is given, one by one, how likely they are."""
        _, ids = _probe(tokenizer)
        response = self._asked(client, url, self._body(ids, self._top_k))
        if self._read(ids, 1, json_of(response) or {}) is None:
            raise self._says_none(client, url, response)

    def _asked(self, client: Client, url: str, body: dict[str, Any]) -> httpx.Response:
        """The answer of one URL, which may be busy for a while."""
        for attempt in range(1, self._connection.settings.retries + 1):
            response = client.probe(body, url)
            if response.status_code not in AGAIN:
                return response
            time.sleep(pause_s(attempt, response))
        return client.probe(body, url)

    def _says_none(self, client: Client, url: str, response: httpx.Response) -> UserError:
        """Why a server is no per-token teacher, in a sentence."""
        refused = response.status_code != 200
        said = f"it answers {client.message(response)}" if refused else "it answers without them"
        remedy = "serve it with `vllm serve`, or have it write and judge alone (warmup=sequence)"
        if self._top_k and refused and "logprob" in said:
            remedy = f"start it with `--max-logprobs {self._top_k}`, or lower train.top_k"
        return UserError(
            f"The served teacher {url} ({self._group}) does not say how likely tokens are that it "
            f"is given ({said.rstrip('.')}), which train=distillation learns from: {remedy}."
        )


def _probe(tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """A text, and its tokens."""
    text = f"{PROBE}{tokenizer.eos_token}"
    return text, list(tokenizer(text)["input_ids"])  # type: ignore[arg-type]


def _logp(said: dict[str, Any]) -> float:
    """ValueError: no log-probability."""
    value = float(said["logprob"])
    if not math.isfinite(value) or value > ABOVE_ZERO:
        raise ValueError
    return min(value, 0.0)


def _likeliest(row: dict[str, Any], k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens of a place, likeliest first; ValueError: there are not as many."""
    found = sorted(((int(token), _logp(said)) for token, said in row.items()), key=lambda p: -p[1])
    if len(found) < k:
        raise ValueError
    return found[:k]
