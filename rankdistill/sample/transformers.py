"""Sampling with transformers: every prompt is computed once, its cache serves its K responses.

`generate(num_return_sequences=K)` computes the prompt K times. Here the prompts of a batch go through
the model once, the cache is repeated K times, and rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rankdistill.errors import UserError
from rankdistill.models import decode_response, load_model, load_tokenizer
from rankdistill.records import Response
from rankdistill.sample.base import Request, SamplingOptions, response_seed


class TransformersSampler:
    """Samples in this process.

    Args:
        batch_size: Most responses that are decoded at once; does not change what is sampled, but
            for rounding: a token is drawn by the inverse distribution function, so another batch
            shape changes it only where the draw lies within rounding of a boundary.
    """

    name = "transformers"

    def __init__(self, *, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise UserError(f"sample.transformers.batch_size is {batch_size}; give at least 1.")
        self.batch_size = batch_size
        self._loaded: tuple[Path, PreTrainedModel, Any] | None = None

    def sample(
        self, model: Path, requests: Sequence[Request], options: SamplingOptions, source: str
    ) -> Iterator[tuple[str, list[Response]]]:
        """(prompt id, its responses) batch by batch, in the given order."""
        network, tokenizer = self._load(model)
        count = options.responses_per_prompt
        prompts_per_batch = max(1, self.batch_size // count)
        for start in range(0, len(requests), prompts_per_batch):
            batch = requests[start : start + prompts_per_batch]
            rows = decode(network, batch, options, tokenizer.eos_token_id, tokenizer.pad_token_id)
            for i, (prompt_id, _) in enumerate(batch):
                yield (
                    prompt_id,
                    [
                        _response(tokenizer, ids, source)
                        for ids in rows[i * count : (i + 1) * count]
                    ],
                )

    def close(self) -> None:
        """Free the model."""
        self._loaded = None

    def _load(self, model: Path) -> tuple[PreTrainedModel, Any]:
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = None
            device = "cuda" if torch.cuda.is_available() else "cpu"
            network = load_model(str(model)).to(device).eval()  # type: ignore[arg-type]
            self._loaded = (model, network, load_tokenizer(str(model)))
        return self._loaded[1], self._loaded[2]


def _response(tokenizer: Any, ids: list[int], source: str) -> Response:
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
    return {
        "text": decode_response(tokenizer, ids),
        "token_ids": ids,
        "finish_reason": "stop" if ended else "length",
        "source": source,
    }


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    requests: Sequence[Request],
    options: SamplingOptions,
    eos: int,
    pad: int,
) -> list[list[int]]:
    """[prompts x K] token ids, EOS included where the model wrote it; K neighbouring rows a prompt."""
    state, logits = _prefill(model, requests, options, pad)
    draws = torch.from_numpy(_uniforms(requests, options)).to(logits.device)
    written: list[list[int]] = [[] for _ in range(len(draws))]
    alive = torch.arange(len(draws), device=logits.device)
    for step in range(options.max_response_tokens):
        tokens = choose(logits, options, draws[alive, step])
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            written[row].append(token)
        going = (tokens != eos).nonzero().squeeze(1)
        if len(going) == 0 or step + 1 == options.max_response_tokens:
            break
        if len(going) < len(alive):
            state = state.keep(going)
            alive, tokens = alive[going], tokens[going]
        logits = state.advance(model, tokens)
    return written


@dataclass
class _State:
    """What decoding goes on from: the rows' cache, their masks and next positions."""

    cache: Any
    mask: Tensor
    """[rows, keys] 1 where a key is real."""
    position: Tensor
    """[rows] of the next token."""

    def keep(self, rows: Tensor) -> _State:
        self.cache.batch_select_indices(rows)
        return _State(self.cache, self.mask[rows], self.position[rows])

    def advance(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """[rows, V] logits after `tokens` [rows]."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        return output.logits[:, -1]


def _prefill(
    model: PreTrainedModel, requests: Sequence[Request], options: SamplingOptions, pad: int
) -> tuple[_State, Tensor]:
    """The prompts once, left-padded; then cache and logits repeated for the K responses."""
    lengths = [len(ids) for _, ids in requests]
    width = max(lengths)
    ids = torch.tensor([[pad] * (width - len(row)) + row for _, row in requests])
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    device = model.device
    output = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=position.to(device),
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        logits_to_keep=1,
    )
    count = options.responses_per_prompt
    cache = output.past_key_values
    cache.batch_repeat_interleave(count)
    state = _State(
        cache,
        mask.to(device).repeat_interleave(count, 0),
        torch.tensor(lengths, device=device).repeat_interleave(count, 0),
    )
    return state, output.logits[:, -1].repeat_interleave(count, 0)


def _uniforms(requests: Sequence[Request], options: SamplingOptions) -> np.ndarray:
    """[prompts x K, steps] draws from [0, 1), a stream of its own for every response."""
    return np.stack(
        [
            np.random.Generator(np.random.Philox(response_seed(options.seed, prompt_id, k))).random(
                options.max_response_tokens
            )
            for prompt_id, _ in requests
            for k in range(options.responses_per_prompt)
        ]
    )


def choose(logits: Tensor, options: SamplingOptions, draws: Tensor) -> Tensor:
    """[rows] one token a row, by the inverse of its distribution function at `draws` [rows]."""
    if options.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        lowest = logits.topk(options.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    probabilities = logits.softmax(-1).double()
    if options.top_p < 1:
        probabilities = _nucleus(probabilities, options.top_p)
    cumulative = probabilities.cumsum(-1)
    target = draws[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities with 0 outside the smallest set that reaches `top_p`."""
    ordered, order = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
