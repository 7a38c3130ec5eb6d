"""A served model writes responses: any OpenAI-compatible server, at one URL or several."""

from __future__ import annotations

import json
import queue
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from rankdistill.endpoint import THIS_QUESTION, Answer, Client, Connection, priced
from rankdistill.errors import UserError
from rankdistill.http_client import check_url
from rankdistill.models import template_arguments
from rankdistill.rows import Message, Response, ToolCall
from rankdistill.sample.sampler import SamplingOptions, response_seed
from rankdistill.schema import EndpointConfig
from rankdistill.tool_calls import call_of, tools_of, with_calls

GROUP = "sample.endpoint"
LARGEST_SEED = 2**31
"""Servers take 32 bits with a sign, or more."""
UNTOLD = {"max_tokens": "max_completion_tokens", "seed": None}
"""Arguments that some models refuse, and what they take instead; None: nothing."""

Written = tuple[str, list[Response], dict[str, Any]]
"""A prompt's id, the responses to it, without token ids, and what they took."""


def check_endpoint(settings: EndpointConfig, group: str = GROUP) -> None:
    """UserError: an address is no URL, carries a secret or is there twice, or arguments are odd.

    Args:
        group: Where its keys are in the configuration.
    """
    for url in settings.urls:
        check_url(f"{group}.urls", url, f"that {group}.key_variable names")
    if len(set(settings.urls)) < len(settings.urls):
        raise UserError(f"{group}.urls names an address twice: give each server once.")
    template_arguments(settings.chat_template_kwargs, f"{group}.chat_template_kwargs")


class EndpointWriter:
    """Has a served model write. Each response is a request of its own, with a seed of its own.

    Args:
        settings: The keys of `sample.endpoint`; a model is among them.
        options: What is drawn. Thoughts that a server hands over by themselves stand between
            `<think>` and `</think>` before the text, as a model of this machine writes them.
    """

    def __init__(self, settings: EndpointConfig, options: SamplingOptions) -> None:
        self._settings, self._options = settings, options
        self._client = Client(
            Connection(
                settings, settings.urls, "The served teacher", f"{GROUP}.urls", GROUP, "written"
            )
        )
        key = f"{GROUP}.chat_template_kwargs"
        self._template = template_arguments(settings.chat_template_kwargs, key)
        self._names: dict[str, str | None] = {name: name for name in UNTOLD}

    def __enter__(self) -> EndpointWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._client.close()

    def check(self) -> dict[str, Any]:
        """Ask every URL what it serves and one small question; learns which arguments it takes.

        Returns:
            For the manifest: `served`, by URL what `/models` says of the model (None: nothing),
            and `seeded`, whether its server takes a seed.

        Raises:
            UserError: nobody is there, the key is refused, the model is not there, URLs serve
                different models, or the server refuses what responses are drawn by.
        """
        found = self._client.served()
        for url in self._settings.urls:
            self._try(url)
        return {"served": found, "seeded": self._names["seed"] is not None}

    def write(
        self, requests: Iterable[tuple[str, Sequence[Message]]], source: str
    ) -> Iterator[Written]:
        """The responses to each prompt, as soon as all of them are there, in any order.

        What cannot be had, since it was refused or could not be read again and again, is left out
        and counted as `set_aside`.

        Args:
            requests: (prompt id, conversation).
            source: Written into the responses.

        Raises:
            UserError: the endpoint stopped answering; what was complete by then is yielded before.
        """
        each = self._options.responses_per_prompt
        done: queue.SimpleQueue[str] = queue.SimpleQueue()
        pending: dict[str, list[Future[Answer]]] = {}
        left: dict[str, int] = {}
        waiting, failure = iter(requests), None
        while True:
            more = failure is None
            while more and sum(left.values()) < max(self._client.capacity, each):
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                name, messages = request
                left[name] = each
                pending[name] = [self._submit(name, messages, k) for k in range(each)]
                for future in pending[name]:
                    future.add_done_callback(lambda _, name=name: done.put(name))
            if not pending:
                break
            try:
                name = done.get(block=failure is None)
            except queue.Empty:
                break
            left[name] -= 1
            if left[name] > 0:
                continue
            del left[name]
            try:
                answers = [future.result() for future in pending.pop(name)]
            except UserError as error:
                failure = error
                continue
            yield name, *self._taken(answers, source)
        if failure is not None:
            raise failure

    def _submit(self, name: str, messages: Sequence[Message], number: int) -> Future[Answer]:
        seed = response_seed(self._options.seed, name, number)
        return self._client.submit(partial(self._body, messages, seed), _read)

    def _taken(
        self, answers: Sequence[Answer], source: str
    ) -> tuple[list[Response], dict[str, Any]]:
        counts: Counter[str] = Counter()
        for answer in answers:
            counts.update(answer.counts)
        responses = [
            Response(token_ids=[], source=source, **answer.result)
            for answer in answers
            if answer.result is not None
        ]
        return responses, priced(counts, self._settings)

    def _body(self, messages: Sequence[Message], seed: int, attempt: int) -> dict[str, Any]:
        """Of a request; what could not be read is drawn anew."""
        options = self._options
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{k: v for k, v in m.items() if k != "tools"} for m in messages],
            "temperature": options.temperature,
        }
        if (tools := tools_of(messages)) is not None:
            body["tools"] = json.loads(tools)
        given = {"max_tokens": options.max_response_tokens, "seed": (seed + attempt) % LARGEST_SEED}
        body |= {own: given[name] for name, own in self._names.items() if own is not None}
        if options.top_p < 1:
            body["top_p"] = options.top_p
        if options.top_k > 0:  # not of OpenAI's interface, but vLLM and others take it
            body["top_k"] = options.top_k
        if self._template:
            body["chat_template_kwargs"] = self._template
        return body

    def _try(self, url: str) -> None:
        """One small question, without the arguments that turn out to be refused."""
        question: list[Message] = [{"role": "user", "content": "Say yes."}]
        for _ in range(len(UNTOLD) + 1):
            response = self._client.probe(self._body(question, 0, 0), url)
            if response.status_code not in THIS_QUESTION:
                return
            said = self._client.message(response)
            refused = [name for name in UNTOLD if self._names[name] == name and name in said]
            if not refused:
                break
            self._names[refused[0]] = UNTOLD[refused[0]]
        raise UserError(
            f"The served teacher {url} refuses what responses are drawn by: {said}; change "
            "sample.temperature, top_p, top_k, max_response_tokens or the endpoint's "
            "chat_template_kwargs."
        )


def _calls(message: dict[str, Any]) -> list[ToolCall]:
    """The calls that a server hands over by themselves."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [call_of(function["name"], function["arguments"]) for function in functions]


def _read(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The text of a chat completion and how it ended; None where it has none."""
    try:
        choice = answer["choices"][0]
        message, ended = choice["message"], choice["finish_reason"]
        text = with_calls({"content": message.get("content"), "tool_calls": _calls(message)})
        ended = "stop" if ended == "tool_calls" else ended
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        if ended not in ("stop", "length") or not (text or thought):
            return None
        if thought:
            closed = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
            text = closed if text else f"<think>{thought}"
        return {"text": str(text), "finish_reason": ended}
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
