"""The attention function of the grouped forward, and its registration with transformers.

A bound model's attention implementation is called ``grouped_<base>``. With the keyword argument
`group_plan` it attends as the plan says, without it it is the base implementation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankdistill.forward.plan import AttentionPlan

PREFIX = "grouped_"


def register(base: str) -> str:
    """Makes the implementation ``grouped_<base>`` known to transformers and returns its name."""
    if base.startswith(PREFIX):
        return base
    name = PREFIX + base
    AttentionInterface.register(name, _dispatch(base))
    if base in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _dispatch(base: str) -> Callable:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        group_plan: AttentionPlan | None = None,
        apply_softcap: bool = False,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        if group_plan is not None:
            return grouped_attention(query, key, value, group_plan, **_options(kwargs)), None
        if apply_softcap and kwargs.get("softcap") is not None:
            return _softcapped_rows(query, key, value, attention_mask, _options(kwargs)), None
        return _base(base, module)(module, query, key, value, attention_mask, **kwargs)

    return attention


def _base(name: str, module: nn.Module) -> Callable:
    """The implementation `name`; eager is not registered: each architecture has its own."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def _options(kwargs: dict) -> dict:
    return dict(
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
    )


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention in which a response sees its prompt and itself only.

    Args:
        query: [1, H, L, D], H query heads over the whole sequence of L tokens.
        key, value: [1, H / groups, L, D].
        plan: The segments that make up the sequence.
        scaling: Factor of the scores; 1 / sqrt(D) by default.
        dropout: Probability of dropping a weight. Responses of a group share the prompt's own draw.
        window: Positions a token sees back, itself included; None sees all.
        softcap: Scores are replaced by ``softcap * tanh(score / softcap)`` (Gemma 2).

    Returns:
        [1, L, H, D]
    """
    parts: list[Tensor] = []
    options = dict(scaling=scaling, dropout=dropout, softcap=softcap)
    for index, segment in enumerate(plan.segments):
        middle, end = segment.start + segment.prompt, segment.start + segment.prompt
        end += sum(segment.responses)
        prompt = [x[:, :, segment.start : middle] for x in (query, key, value)]
        mask = plan.prompt_mask(index, window, query.device)
        parts.append(_attend(*prompt, mask=mask, **options))
        if not segment.responses:
            continue
        own = [x[0, :, middle:end] for x in (query, key, value)]
        mask = plan.response_mask(index, window, query.device)
        parts.append(_respond(own, prompt[1:], plan, index, mask, options))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _respond(
    own: list[Tensor],
    prompt: list[Tensor],
    plan: AttentionPlan,
    index: int,
    mask: Tensor,
    options: dict,
) -> Tensor:
    """[1, H, sum of lengths, D]: the responses of a segment, batched over ``[prompt; own]`` keys."""
    segment = plan.segments[index]
    count, longest = len(segment.responses), segment.longest
    pad = real = None
    if segment.ragged:
        pad, real = plan.gather(index, mask.device)

    def rows(x: Tensor) -> Tensor:
        x = x if pad is None else x.index_select(1, pad)
        return x.unflatten(1, (count, longest)).transpose(0, 1)

    query, key, value = (rows(x) for x in own)
    key, value = (
        torch.cat([shared.expand(count, -1, -1, -1), x], dim=2)
        for shared, x in zip(prompt, (key, value), strict=True)
    )
    out = _attend(query, key, value, mask=mask, **options).transpose(0, 1).flatten(1, 2)
    return (out if real is None else out.index_select(1, real))[None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    """[rows, H, Q, D]: scaled dot-product attention; causal where there is no mask."""
    if softcap is not None:
        if mask is None:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            mask = mask.tril()
        return softcapped_attention(query, key, value, mask, scaling, dropout, softcap)
    groups = query.shape[1] // key.shape[1]
    native = query.device.type == "cpu" or mask is None
    if groups > 1 and not native:  # other devices fall back to a slow kernel for both at once
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=groups > 1 and native,
    )


def softcapped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> Tensor:
    """[rows, H, Q, D]: attention with bounded scores, softmax in at least float32.

    `mask` is bool (True is seen) or additive; None sees everything.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scale
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=dtype).to(value.dtype), dropout)
    return weights @ value


def _softcapped_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict
) -> Tensor:
    """[rows, T, H, D]: padded rows of a model whose own implementation would drop the soft-cap."""
    options.pop("window")  # the mask has it already
    if mask is None:
        out = _attend(query, key, value, mask=None, **options)
    else:
        out = softcapped_attention(query, key, value, mask, **options)
    return out.transpose(1, 2).contiguous()
