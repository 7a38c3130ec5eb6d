"""The attention of a plan as one FlexAttention call, for CUDA devices.

The tree of prompts and responses is a mask over the whole sequence that says for two tokens whether
the one sees the other; blocks of it that are all hidden are never computed. `attention.py` computes
the same segment by segment, on every device, and is what this is held against.

Not tested on a GPU: training through the compiled kernel, its speed, and its memory. What is tested
is the mask, and the forward pass on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from rankdistill.forward.plan import AttentionPlan

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, q, k), indices that broadcast -> bool."""


def fits(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether the kernel takes such tensors: on CUDA, at most float32, of one head size >= 16."""
    return (
        query.device.type == "cuda"
        and query.dtype != torch.float64
        and query.shape[-1] == value.shape[-1] >= 16
        and dropout == 0  # it has none
    )


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[1, H, L, D]: attention in which a response sees its prompt and itself only.

    Args:
        query: [1, H, L, D].
        key, value: [1, H / groups, L, D].
        plan: The segments that make up the L tokens.
        scaling: Factor of the scores; 1 / sqrt(D) where None.
        window: Positions a token sees back, itself included; None sees all.
        softcap: Scores are replaced by ``softcap * tanh(score / softcap)``.
    """
    device = query.device

    def make() -> BlockMask:
        length = query.shape[2]
        return create_block_mask(
            tree_mask(plan, window, device), None, None, length, length, device=device
        )

    mask = plan.once(("flex", window, device), make)
    kernel = _compiled() if device.type == "cuda" else flex_attention
    out: Any = kernel(
        query,
        key,
        value,
        score_mod=None if softcap is None else _bounded(softcap),
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


def tree_mask(plan: AttentionPlan, window: int | None, device: torch.device | str) -> Mask:
    """A `mask_mod` of FlexAttention: whether token q of a plan's sequence sees token k.

    The two are of one segment, k is of the prompt or of the response that q is of, and k's position
    is not after q's, nor out of the window. A response's positions continue those of its prompt.
    """
    segments: list[int] = []
    branches: list[int] = []
    positions: list[int] = []
    for index, segment in enumerate(plan.segments):
        parts = [(0, segment.prompt), *((segment.prompt, n) for n in segment.responses)]
        for branch, (start, length) in enumerate(parts):
            segments += [index] * length
            branches += [branch] * length
            positions += range(start, start + length)
    of_segment, of_branch, position = (
        torch.tensor(values, device=device) for values in (segments, branches, positions)
    )

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = position[q] - position[k]
        same = of_segment[q] == of_segment[k]
        shared = (of_branch[k] == 0) | (of_branch[q] == of_branch[k])
        seen = same & shared & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    return sees


def _bounded(softcap: float) -> Any:
    def bound(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return bound


@functools.cache
def _compiled() -> Any:
    """The kernel; dynamic, or it would be compiled anew for every length of a sequence."""
    return torch.compile(flex_attention, dynamic=True)
