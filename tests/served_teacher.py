"""A model behind a scripted server that says of given tokens how likely they are, as vLLM does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rankdistill.schema import EndpointConfig


def reads_as(model: Any, tokenizer: Any) -> Callable[[Any, int], Any]:
    """What `FakeEndpoint` takes as `reads`: vLLM's `prompt_logprobs` of a text or of token ids."""

    @torch.no_grad()
    def reads(prompt: Any, k: int) -> list[dict[str, Any] | None]:
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows: list[dict[str, Any] | None] = [None]
        for token, said in zip(ids[1:], logps, strict=False):
            named = [token, *said.topk(k).indices.tolist()]
            rows.append({str(t): {"logprob": float(said[t]), "decoded_token": ""} for t in named})
        return rows

    return reads


def at(*urls: str, **changes: Any) -> EndpointConfig:
    """The keys of an endpoint."""
    given = {
        "urls": list(urls), "model": "judge-1", "revision": None, "key_variable": "OPENAI_API_KEY",
        "chat_template_kwargs": None, "max_response_tokens": None, "concurrency": 8,
        "requests_per_minute": None, "timeout_s": 5.0, "retries": 3,
        "dollars_per_million_input_tokens": 1.0, "dollars_per_million_output_tokens": 0.0,
    }  # fmt: skip
    return EndpointConfig(**{**given, **changes})
