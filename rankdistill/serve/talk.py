"""Asking a model that is served: the name of what is served, and answers as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from rankdistill.errors import UserError
from rankdistill.http_client import KEY_VARIABLE


def served_model(http: httpx.Client) -> str:
    """The name of the first model of the API.

    Raises:
        UserError: nobody answers there, a wrong key, or something else answers.
    """
    try:
        response = http.get("models")
        _check(http, response)
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPError as error:
        raise UserError(
            f"Nobody answers at {http.base_url} ({type(error).__name__}): start it with "
            "`python -m rankdistill.serve RUN`."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{http.base_url} serves no model: give the URL of the API, "
            "such as http://127.0.0.1:8000/v1."
        ) from error


def answer(
    http: httpx.Client, model: str, messages: Sequence[Mapping[str, str]], **sampling: Any
) -> Iterator[str]:
    """The answer to a conversation, piece by piece.

    Raises:
        UserError: the server refuses the conversation, or goes away.
    """
    body = {"model": model, "messages": list(messages), "stream": True, **sampling}
    try:
        with http.stream("POST", "chat/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                _check(http, response)
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                for choice in json.loads(data).get("choices", []):
                    if piece := (choice.get("delta") or {}).get("content"):
                        yield piece
    except httpx.HTTPError as error:
        raise UserError(
            f"{http.base_url} went away while it answered ({type(error).__name__}): "
            "look at the server."
        ) from error


def _check(http: httpx.Client, response: httpx.Response) -> None:
    if response.status_code in (401, 403):
        raise UserError(f"{http.base_url} refuses the key: set {KEY_VARIABLE} to the server's.")
    if response.status_code != 200:
        told = " ".join(response.text.split())[:200]
        raise UserError(f"{http.base_url} answers {response.status_code} ({told}): ask it less.")
