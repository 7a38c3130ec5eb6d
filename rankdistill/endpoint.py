"""Many questions at once to an OpenAI-compatible endpoint: a `vllm serve`, a vendor, any other.

What an answer can be, and what follows:

| the endpoint | what is done |
|---|---|
| answers as it was asked to | it counts |
| answers otherwise | asked again, then set aside and counted |
| 408, 409, 429, 5xx, a cut connection, silence | asked again after a growing pause |
| ... and still so, while others were answered in the last pause | set aside and counted |
| ... and still so, and nobody was answered | the run stops; run again, it continues |
| 400, 413, 422: this question cannot be answered | set aside and counted |
| 401, 403, 404: no question can | the run stops |

With several URLs of one model requests go to them in turn, and what is asked again to the next.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from rankdistill.errors import UserError, suggest
from rankdistill.http_client import AGAIN, LOOPBACK, pause_s

# It tells every request.
logging.getLogger("httpx").setLevel(logging.WARNING)

THIS_QUESTION = {400, 413, 422}
"""Statuses that say: this question cannot be answered, others may."""
SAME = ("id", "root", "parent", "max_model_len")
"""What servers of one model say alike of it; the time they were started at differs."""
UNREAD_TWICE = 2
"""Times that an answer which could not be read is asked for again."""


class Stopped(Exception):
    """The run is over; what is in flight is dropped."""


@dataclass(frozen=True)
class Answer:
    """What became of a question."""

    result: Any
    """None where the answer was set aside."""
    counts: Counter[str]
    """calls, retries, set_aside, prompt_tokens, completion_tokens."""


@dataclass(frozen=True)
class Connection:
    """Where a model is served, and how hard it may be asked."""

    settings: Any
    """`model`, `key_variable`, `concurrency`, `requests_per_minute`, `timeout_s` and `retries`: the
    keys of `group`, which every endpoint has."""
    urls: Sequence[str]
    who: str
    """For the person: ``The judge's endpoint``."""
    url_key: str
    """Where the URL is in the configuration: ``score.endpoint``."""
    group: str
    """Where the other keys are: ``score``."""
    done: str
    """What was done with the answers that are kept: ``judged``."""
    path: str = "chat/completions"
    """What is asked, under the URL."""


class Client:
    """Asks an endpoint from a pool of threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        settings = connection.settings
        self._key = os.environ.get(settings.key_variable, "")
        self._over = threading.Event()
        self._pace = _Pace(settings.requests_per_minute)
        self._lock = threading.Lock()
        self._answered = 0
        self._turn = count()
        most, timeout = settings.concurrency, settings.timeout_s
        hosts = {httpx.URL(url).host for url in connection.urls}
        self._client = httpx.Client(
            # A key must not follow a redirect to another host.
            follow_redirects=False,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            trust_env=not hosts <= set(LOOPBACK),
        )
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="endpoint")

    @property
    def capacity(self) -> int:
        """Questions that it should have in hand."""
        return 2 * self.connection.settings.concurrency

    def submit(
        self, body: Callable[[int], dict[str, Any]], read: Callable[[dict[str, Any]], Any]
    ) -> Future[Answer]:
        """Ask in the background; the future raises UserError where the run must stop.

        Args:
            body: Of the request, by how many of its answers could not be read so far.
            read: The result of a chat completion; None where it is not what was asked for.
        """
        return self._pool.submit(self._answer, body, read)

    def post(self, body: dict[str, Any], url: str) -> httpx.Response:
        """One request. httpx.HTTPError: nothing came back."""
        return self._client.post(f"{url.rstrip('/')}/{self.connection.path}", json=body)

    def probe(self, body: dict[str, Any], url: str) -> httpx.Response:
        """One request at start-up. UserError: nobody there, key refused, no such model."""
        try:
            response = self.post(body, url)
        except httpx.HTTPError as error:
            raise UserError(
                f"{self.connection.who} {url} can't be reached ({type(error).__name__}): start "
                f"it, for example with `vllm serve`, or correct {self.connection.url_key}."
            ) from error
        self.refuse_hopeless(response)
        return response

    def models(self, url: str) -> list[dict[str, Any]]:
        """What it says that it serves (`/models`); nothing where it does not say."""
        try:
            answer = json_of(self._client.get(f"{url.rstrip('/')}/models")) or {}
        except httpx.HTTPError:
            return []
        listed = answer.get("data")
        return [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []

    def served(self) -> dict[str, dict[str, Any] | None]:
        """By URL what it says of the model; None: it says nothing.

        Raises:
            UserError: a URL has the model not, or URLs serve different models.
        """
        told = self.connection
        by_url = {url: self._of_model(url) for url in told.urls}
        first = told.urls[0]
        for url, said in by_url.items():
            if said is None and len(by_url) > 1:
                raise UserError(
                    f"{url} ({told.url_key}) does not say what it serves (/models), so it is not "
                    "known whether the URLs serve the same model: leave it out, or give one URL."
                )
            if said is not None and _same(said) != _same(by_url[first] or {}):
                raise UserError(
                    f"{first} and {url} ({told.url_key}) serve different models as "
                    f"'{told.settings.model}' ({_same(by_url[first] or {})} and {_same(said)}): "
                    "give URLs of one model."
                )
        return by_url

    def _of_model(self, url: str) -> dict[str, Any] | None:
        """What a URL says of the model. UserError: it says that it serves others only."""
        listed, told = self.models(url), self.connection
        for model in listed:
            if model.get("id") == told.settings.model:
                return model
        if not listed:
            return None
        names = [str(model.get("id")) for model in listed]
        raise UserError(
            f"{told.who} {url} has no model '{told.settings.model}' ({told.group}.model): "
            f"{suggest(told.settings.model, names)}"
        )

    def close(self) -> None:
        """Drop what is not answered."""
        self._over.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def refuse_hopeless(self, response: httpx.Response) -> None:
        """UserError where no question can be answered."""
        told, status = self.connection, response.status_code
        url = str(response.request.url).removesuffix(f"/{told.path}")
        if status in (401, 403):
            key = "is not set" if not self._key else "holds a key that it refuses"
            raise UserError(
                f"{told.who} {url} answers {status}: the environment variable "
                f"{told.settings.key_variable} ({told.group}.key_variable) {key}."
            )
        if status == 404 or 300 <= status < 400:
            served = [str(model.get("id")) for model in self.models(url)]
            hint = f" {suggest(told.settings.model, served)}" if served else ""
            raise UserError(
                f"{told.who} {url} has no model '{told.settings.model}' ({told.group}.model) or no "
                f"/{told.path} (it answers {status}): correct one or the other.{hint}"
            )

    def message(self, response: httpx.Response) -> str:
        """The status and the server's words, without the key, which some repeat."""
        error = (json_of(response) or {}).get("error")
        text = error.get("message") if isinstance(error, dict) else error
        text = " ".join(str(text or response.reason_phrase).split())[:200]
        return f"{response.status_code}: {text.replace(self._key, '***') if self._key else text}"

    def _answer(
        self, body: Callable[[int], dict[str, Any]], read: Callable[[dict[str, Any]], Any]
    ) -> Answer:
        counts: Counter[str] = Counter()
        retries, turn = self.connection.settings.retries, next(self._turn)
        urls = self.connection.urls
        before, pauses, unread = self._answered, 0, 0
        while True:
            self._pace.wait(self._over)
            url = urls[(turn + counts["calls"]) % len(urls)]
            counts["calls"] += 1
            failure: Exception | None = None
            response: httpx.Response | None = None
            try:
                response = self.post(body(unread), url)
            except httpx.HTTPError as error:
                failure = error
            if self._over.is_set():
                raise Stopped
            if response is not None and response.status_code == 200:
                result = self._read(read, response, counts)
                if result is not None:
                    return Answer(result, counts)
                counts["not_in_form"] += 1
                unread += 1
                if unread > min(UNREAD_TWICE, retries):
                    counts["set_aside"] += 1
                    return Answer(None, counts)
                continue
            if response is not None and response.status_code not in AGAIN:
                self.refuse_hopeless(response)
                counts["set_aside"] += 1
                return Answer(None, counts)
            pauses += 1
            if pauses > retries:
                return self._give_up(before, counts, response, failure)
            counts["retries"] += 1
            before = self._answered
            self._over.wait(pause_s(pauses, response))

    def _read(
        self,
        read: Callable[[dict[str, Any]], Any],
        response: httpx.Response,
        counts: Counter[str],
    ) -> Any:
        with self._lock:
            self._answered += 1
        answer = json_of(response)
        if answer is None:
            return None
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage.get(name), int):
                counts[name] += usage[name]
        return read(answer)

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
        told = self.connection
        why = self.message(response) if response is not None else type(failure).__name__
        raise UserError(
            f"{told.who} {' and '.join(told.urls)} stopped answering ({why}; "
            f"{told.settings.retries} retries): run the same command again when it is back, what "
            f"was {told.done} is kept."
        )


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


def _same(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in SAME if model.get(name) is not None}


def priced(counts: Counter[str] | dict[str, Any], prices: Any) -> dict[str, Any]:
    """The counts with what they cost, `dollars`, where that is known; see `dollars`."""
    cost = dollars(prices, counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0))
    return {**counts, "dollars": cost} if cost else dict(counts)


def dollars(prices: Any, read: float, written: float) -> float:
    """What tokens cost.

    Args:
        prices: With `dollars_per_million_input_tokens`, which are read, and `.._output_tokens`.
    """
    of_read = read * prices.dollars_per_million_input_tokens
    return (of_read + written * prices.dollars_per_million_output_tokens) / 1e6


def json_of(response: httpx.Response) -> dict[str, Any] | None:
    """The object that a response holds; None where it is none."""
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
