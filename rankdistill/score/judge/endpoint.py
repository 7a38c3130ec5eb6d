"""A judge behind an OpenAI-compatible endpoint: a `vllm serve`, another server, or a vendor.

What an answer can be, and what follows:

| the endpoint | what is done |
|---|---|
| answers in the form that was asked for | it counts |
| answers otherwise | asked again, then set aside and counted |
| 408, 409, 429, 5xx, a cut connection, silence | asked again after a growing pause |
| ... and still so, while others were answered in the last pause | set aside and counted |
| ... and still so, and nobody was answered | the run stops; run again, it continues |
| 400, 413, 422: this question cannot be answered | set aside and counted |
| 401, 403, 404: no question can | the run stops |
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from rankdistill.errors import UserError, suggest
from rankdistill.http_client import AGAIN, LOOPBACK, pause_s
from rankdistill.score.judge.modes import Question
from rankdistill.score.judge.runner import Answer
from rankdistill.score.judge.verdicts import Form, Reply, duel_form, rating_form

# It tells every request.
logging.getLogger("httpx").setLevel(logging.WARNING)

TOP_LOGPROBS = 20
"""The most that OpenAI and vLLM list."""
_THIS_QUESTION = {400, 413, 422}


class Stopped(Exception):
    """The run is over; what is in flight is dropped."""


@dataclass(frozen=True)
class EndpointOptions:
    """Where the judge is, and how hard it may be asked; none of it changes its verdicts but
    `model`, `temperature`, `max_answer_tokens` and `chat_template_kwargs`."""

    url: str
    model: str
    key_variable: str
    temperature: float
    max_answer_tokens: int
    concurrency: int
    requests_per_minute: float | None
    timeout_s: float
    retries: int
    seed: int
    chat_template_kwargs: Any = None
    """Arguments of the model's template, as vLLM's server takes them."""
    group: str = "score"
    """Where its keys are in the configuration, for the person."""


class Endpoint:
    """Asks an endpoint from a pool of threads."""

    def __init__(self, options: EndpointOptions) -> None:
        self._options = options
        self._key = os.environ.get(options.key_variable, "")
        self._over = threading.Event()
        self._pace = _Pace(options.requests_per_minute)
        self._lock = threading.Lock()
        self._answered = 0
        host = httpx.URL(options.url).host
        self._client = httpx.Client(
            # A key must not follow a redirect to another host.
            follow_redirects=False,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(options.timeout_s, connect=min(options.timeout_s, 10.0)),
            limits=httpx.Limits(
                max_connections=options.concurrency, max_keepalive_connections=options.concurrency
            ),
            trust_env=host not in LOOPBACK,
        )
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="judge")

    @property
    def capacity(self) -> int:
        return 2 * self._options.concurrency

    def submit(self, question: Question) -> Future[Answer]:
        return self._pool.submit(self._answer, question)

    def close(self) -> None:
        self._over.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def check(self, *, logprobs: bool = False, form: Form | None = None) -> None:
        """One small question, to learn at start-up whether it can work.

        Args:
            logprobs: They are needed.
            form: Of the answers, where it is neither a rating nor a duel.

        Raises:
            UserError: nobody there, key refused, no such model, structured answers refused, or no
                log-probabilities where they are needed.
        """
        if form is None:
            rating = rating_form(expected=True, explain=False)
            form = rating if logprobs else duel_form(explain=False)
        question = Question([{"role": "user", "content": f"A test. {form.told}"}], form)
        try:
            response = self._post(question, 0)
        except httpx.HTTPError as error:
            raise UserError(
                f"The judge's endpoint {self._options.url} can't be reached "
                f"({type(error).__name__}): start it, for example with `vllm serve`, or correct "
                f"{self._options.group}.endpoint."
            ) from error
        self._refuse_hopeless(response)
        if response.status_code in _THIS_QUESTION:
            raise UserError(
                f"The judge's endpoint {self._options.url} refuses structured answers or "
                f"log-probabilities: {self._message(response)}; take a server that has "
                "`response_format: json_schema`, and score.expected_score=false without the latter."
            )
        reply = _reply(response) if response.status_code == 200 else None
        if logprobs and reply is not None and reply.text and not reply.steps:
            raise UserError(
                f"The judge's endpoint {self._options.url} gives no log-probabilities, which "
                "expected scores are made of: set score.expected_score=false."
            )

    def _answer(self, question: Question) -> Answer:
        counts: Counter[str] = Counter()
        before, pauses, unread = self._answered, 0, 0
        while True:
            self._pace.wait(self._over)
            counts["calls"] += 1
            failure: Exception | None = None
            response: httpx.Response | None = None
            try:
                response = self._post(question, unread)
            except httpx.HTTPError as error:
                failure = error
            if self._over.is_set():
                raise Stopped
            if response is not None and response.status_code == 200:
                verdict = self._read(question, response, counts)
                if verdict is not None:
                    return Answer(verdict, counts)
                counts["not_in_form"] += 1
                unread += 1
                if unread > min(2, self._options.retries):
                    counts["set_aside"] += 1
                    return Answer(None, counts)
                continue
            if response is not None and response.status_code not in AGAIN:
                self._refuse_hopeless(response)
                counts["set_aside"] += 1
                return Answer(None, counts)
            pauses += 1
            if pauses > self._options.retries:
                return self._give_up(before, counts, response, failure)
            counts["retries"] += 1
            before = self._answered
            self._over.wait(pause_s(pauses, response))

    def _post(self, question: Question, attempt: int) -> httpx.Response:
        options = self._options
        body: dict[str, Any] = {
            "model": options.model,
            "messages": question.messages,
            "temperature": options.temperature,
            "max_tokens": options.max_answer_tokens,
            # Another draw for an answer that could not be read; no difference at temperature 0.
            "seed": options.seed + attempt,
        }
        if options.chat_template_kwargs:
            body["chat_template_kwargs"] = options.chat_template_kwargs
        if question.form.schema:
            told = {"name": "verdict", "strict": True, "schema": question.form.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": told}
        if question.form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return self._client.post(f"{options.url.rstrip('/')}/chat/completions", json=body)

    def _read(self, question: Question, response: httpx.Response, counts: Counter[str]) -> Any:
        with self._lock:
            self._answered += 1
        usage = (_json(response) or {}).get("usage") or {}
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage.get(name), int):
                counts[name] += usage[name]
        reply = _reply(response)
        return None if reply is None else question.form.read(reply)

    def _give_up(
        self,
        before: int,
        counts: Counter[str],
        response: httpx.Response | None,
        failure: Exception | None,
    ) -> Answer:
        if self._answered > before:
            counts["set_aside"] += 1
            return Answer(None, counts)
        why = self._message(response) if response is not None else type(failure).__name__
        raise UserError(
            f"The judge's endpoint {self._options.url} stopped answering ({why}; "
            f"{self._options.retries} retries): run the same command again when it is back, what "
            "was judged is kept."
        )

    def _refuse_hopeless(self, response: httpx.Response) -> None:
        """UserError where no question can be answered."""
        options, status = self._options, response.status_code
        if status in (401, 403):
            key = "is not set" if not self._key else "holds a key that it refuses"
            raise UserError(
                f"The judge's endpoint {options.url} answers {status}: the environment variable "
                f"{options.key_variable} ({options.group}.key_variable) {key}."
            )
        if status == 404 or 300 <= status < 400:
            served = self._served()
            hint = f" {suggest(options.model, served)}" if served else ""
            raise UserError(
                f"The judge's endpoint {options.url} has no model '{options.model}' "
                f"({options.group}.model) or no /chat/completions (it answers {status}): correct "
                f"one or the other.{hint}"
            )

    def _served(self) -> list[str]:
        try:
            answer = _json(self._client.get(f"{self._options.url.rstrip('/')}/models")) or {}
        except httpx.HTTPError:
            return []
        return [str(model.get("id")) for model in answer.get("data") or []]

    def _message(self, response: httpx.Response) -> str:
        """The status and the server's words, without the key, which some repeat."""
        error = (_json(response) or {}).get("error")
        text = error.get("message") if isinstance(error, dict) else error
        text = " ".join(str(text or response.reason_phrase).split())[:200]
        return f"{response.status_code}: {text.replace(self._key, '***') if self._key else text}"


class _Pace:
    """Spreads requests so that there are at most so many per minute."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, over: threading.Event) -> None:
        if self._gap:
            with self._lock:
                at = max(self._next, time.monotonic())
                self._next = at + self._gap
            over.wait(max(0.0, at - time.monotonic()))
        if over.is_set():
            raise Stopped


def _json(response: httpx.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _reply(response: httpx.Response) -> Reply | None:
    """The first choice; None where the answer is no chat completion, or was cut."""
    try:
        choice = (_json(response) or {})["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str) or choice.get("finish_reason") == "length":
            return None
        listed = (choice.get("logprobs") or {}).get("content") or []
        steps = [
            (
                step["token"],
                {
                    **{top["token"]: float(top["logprob"]) for top in step["top_logprobs"]},
                    step["token"]: float(step["logprob"]),
                },
            )
            for step in listed
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return Reply(text, steps)
