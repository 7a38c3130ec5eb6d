"""Clients of an API that serves a model."""

from __future__ import annotations

import os
from typing import Any

import httpx

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable that vLLM's server takes its key from, and our clients theirs."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def client(url: str, **options: Any) -> httpx.Client:
    """For the API at `url`, with the key of the environment; no proxy on this machine."""
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    local = httpx.URL(url).host in LOOPBACK
    timeout = httpx.Timeout(600.0, connect=10.0)
    return httpx.Client(
        base_url=url, headers=headers, timeout=timeout, trust_env=not local, **options
    )
