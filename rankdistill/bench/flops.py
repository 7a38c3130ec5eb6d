"""Floating-point operations from closed forms: what a ratio could be if only they counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Cost:
    """FLOPs of the forward pass of a model."""

    token: float
    """Of a token in the layers' matrices, 2 per weight."""
    row: float
    """Of a row of logits, ``2 D V``."""
    pair: float
    """Of a query that sees a key, over all layers: ``4 heads head_size layers``."""

    @classmethod
    def of(cls, model: Any) -> Cost:
        """Read off a decoder-only model; sliding windows are not counted."""
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        matrices = sum(
            parameter.numel()
            for module in model.modules()
            if module is not head and not isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
            if parameter.dim() == 2
        )
        return cls(
            2 * matrices,
            2 * head.weight.numel(),
            4 * config.num_attention_heads * size * config.num_hidden_layers,
        )


@dataclass(frozen=True)
class Work:
    """What a way to compute something goes through."""

    tokens: int
    """Through the layers."""
    rows: int
    """Through the output layer."""
    pairs: float
    """Of query and key; causal attention over n tokens has ``n^2 / 2``."""
    head_passes: int = 3
    """Products with the output matrix in a training step: forward and two backward; 4 where the
    backward pass computes the logits again."""

    def training(self, cost: Cost) -> float:
        """FLOPs of forward and backward; flash attention computes its scores again (3.5)."""
        return (
            3 * cost.token * self.tokens
            + self.head_passes * cost.row * self.rows
            + 3.5 * cost.pair * self.pairs
        )

    def inference(self, cost: Cost) -> float:
        """FLOPs of the forward pass alone."""
        return cost.token * self.tokens + cost.row * self.rows + cost.pair * self.pairs


def sequences(count: int, prompt: int, response: int, **others: int) -> Work:
    """`count` sequences of prompt and response by themselves; logits of every token.

    `others`: fields of `Work` that differ.
    """
    length = prompt + response
    tokens = count * length
    return Work(**{"tokens": tokens, "rows": tokens, "pairs": count * length**2 / 2, **others})


def shared(count: int, prompt: int, response: int) -> Work:
    """`count` responses after one prompt; logits of the response tokens."""
    pairs = prompt**2 / 2 + count * (response * prompt + response**2 / 2)
    return Work(prompt + count * response, count * response, pairs)
