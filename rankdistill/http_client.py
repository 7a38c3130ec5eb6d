"""Clients of an API that serves a model."""

from __future__ import annotations

import os
import random
from typing import Any

import httpx

from rankdistill.errors import UserError

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable that vLLM's server takes its key from, and our clients theirs."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

AGAIN = {408, 409, 425, 429, *range(500, 600)}
"""Statuses after which the same request may be answered."""

BACKOFF_S, LONGEST_PAUSE_S = 1.0, 60.0
"""The first pause, doubled each time; and the longest, a server's Retry-After included."""


def client(url: str, **options: Any) -> httpx.Client:
    """For the API at `url`, with the key of the environment; no proxy on this machine."""
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    local = httpx.URL(url).host in LOOPBACK
    timeout = httpx.Timeout(600.0, connect=10.0)
    return httpx.Client(
        base_url=url, headers=headers, timeout=timeout, trust_env=not local, **options
    )


def check_url(key: str, url: str, variable: str) -> None:
    """Refuse what is no URL of an API, or would write a secret into logs.

    Args:
        key: The configuration's: ``score.endpoint``.
        variable: The environment variable that holds the API's key, or what names it.

    Raises:
        UserError: no URL, or one that carries credentials or parameters.
    """
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(
            f"{key} is '{url}', which is no URL: give one such as http://127.0.0.1:8000/v1."
        )
    if parsed.userinfo or parsed.query:
        raise UserError(
            f"{key} carries credentials or parameters, which would be written into logs: put the "
            f"key into the environment variable {variable}."
        )


def pause_s(attempt: int, response: httpx.Response | None) -> float:
    """Seconds before a request is sent again: what the server asks for, or twice as long each time,
    not in step with other clients.

    Args:
        attempt: How many times it was sent, at least 1.
        response: What came back; None where nothing did.
    """
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.replace(".", "", 1).isdigit():
        return min(float(asked), LONGEST_PAUSE_S)
    return min(BACKOFF_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
