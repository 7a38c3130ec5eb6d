"""The attention function of the grouped forward, and how it comes into a model's attention layers.

transformers looks an attention implementation up by the name in the model's config. `register`
puts a function under that name which attends as the plan says where a call brings a `group_plan`,
and is the implementation itself otherwise, so calls without groups, of any model, stay what they
were. The name stays too: flash kernels, masks and the Trainer depend on it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankdistill.forward import flex
from rankdistill.forward.batch import AttentionPlan, ResponseRows

EAGER = "grouped_eager"


@dataclass(frozen=True)
class AttentionOptions:
    """What a layer asks of its attention."""

    scaling: float | None = None
    """Factor of the scores; 1 / sqrt(D) where None."""
    dropout: float = 0.0
    """Probability of dropping a weight. Responses of a group share the prompt's own draw."""
    window: int | None = None
    """Positions a token sees back, itself included; None sees all."""
    softcap: float | None = None
    """Scores are replaced by ``softcap * tanh(score / softcap)`` (Gemma 2)."""


def follow_groups(model: Any) -> None:
    """Lets the model's attention implementation follow group plans.

    At every call, because `set_attn_implementation` may have changed it. It is left in place
    afterwards: gradient checkpointing runs the layers again during the backward pass.
    """
    name = model.config._attn_implementation
    following = register(name)
    if following != name:
        model.config._attn_implementation = following


def backbone_name(model: Any) -> str:
    """The attribute that holds the backbone: what the architecture says, or the usual names."""
    names = (model.base_model_prefix, "model", "transformer")
    return next(name for name in names if hasattr(model, name))


def register(name: str) -> str:
    """Makes the attention implementation `name` follow group plans; returns the name to use.

    Only eager attention gets another name: transformers has no function under it, each architecture
    brings its own.
    """
    if name == "eager":
        name = EAGER
        AttentionMaskInterface.register(EAGER, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    function = _own_eager if name == EAGER else ALL_ATTENTION_FUNCTIONS[name]
    if not getattr(function, "follows_group_plans", False):
        AttentionInterface.register(name, _with_groups(function, drops_softcap=name == "sdpa"))
    return name


def _own_eager(module: nn.Module, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _with_groups(base: Callable, drops_softcap: bool) -> Callable:
    @functools.wraps(base)
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args,
        group_plan: AttentionPlan | None = None,
        in_rows: bool = False,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        options = AttentionOptions(
            kwargs.get("scaling"),
            kwargs.get("dropout", 0.0),
            kwargs.get("sliding_window"),
            kwargs.get("softcap"),
        )
        if group_plan is not None:
            return grouped_attention(query, key, value, group_plan, options), None
        if in_rows and drops_softcap and options.softcap is not None:
            # The mask has the window already.
            mask = attention_mask
            out = softcapped_attention(query, key, value, mask, options, options.softcap)
            return out.transpose(1, 2).contiguous(), None
        return base(module, query, key, value, attention_mask, *args, **kwargs)

    attention.follows_group_plans = True  # type: ignore[attr-defined]
    return attention


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, options: AttentionOptions
) -> Tensor:
    """[1, L, H, D]: attention in which a response sees its prompt and itself only.

    On CUDA it is one FlexAttention call (`flex.py`), elsewhere a few calls per segment.

    Args:
        query: [1, H, L, D], H query heads over the whole sequence of L tokens.
        key, value: [1, H / groups, L, D].
        plan: The segments that make up the sequence.
        options: What the layer asks for.
    """
    plan.windows.add(options.window)
    if flex_fits(query, value, options.dropout) and flex.works(query, key):
        out = flex.tree_attention(
            query,
            key,
            value,
            plan,
            scaling=options.scaling,
            window=options.window,
            softcap=options.softcap,
        )
        return out.transpose(1, 2).contiguous()
    parts: list[Tensor] = []
    queries, keys, values = (x.split(plan.sizes, dim=2) for x in (query, key, value))
    pieces = list(zip(queries, keys, values, strict=True))
    for index, segment in enumerate(plan.segments):
        prompt, own = pieces[2 * index], pieces[2 * index + 1]
        mask = plan.prompt_mask(index, options.window, query.device)
        parts.append(_attend(*prompt, mask, options))
        if segment.responses:
            parts.append(_respond(own, prompt, plan, index, options))
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1)


def flex_fits(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether FlexAttention takes these: on CUDA, at most float32, of one head size >= 16."""
    return (
        query.device.type == "cuda"
        and query.dtype != torch.float64
        and query.shape[-1] == value.shape[-1] >= 16
        and dropout == 0  # it has none
    )


def _respond(
    own: tuple[Tensor, Tensor, Tensor],
    prompt: tuple[Tensor, Tensor, Tensor],
    plan: AttentionPlan,
    index: int,
    options: AttentionOptions,
) -> Tensor:
    """[1, H, S, D]: the responses of a segment over the prompt's keys and their own."""
    rows = plan.rows(index, own[0].device)
    simple = (
        options.softcap is None and options.dropout == 0 and plan.reaches(index, options.window)
    )
    if simple and merge_fits(*own):
        return merged_attention(own, prompt[1:], rows, options.scaling)
    query, key, value = (rows.spread(x) for x in own)
    key, value = (
        torch.cat([shared.expand(rows.count, -1, -1, -1), x], dim=2)
        for shared, x in zip(prompt[1:], (key, value), strict=True)
    )
    mask = plan.response_mask(index, options.window, query.device)
    return rows.join(_attend(query, key, value, mask, options))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: AttentionOptions
) -> Tensor:
    """[rows, H, Q, D]: scaled dot-product attention; causal where there is no mask."""
    if options.softcap is not None:
        return softcapped_attention(query, key, value, mask, options, options.softcap)
    groups = query.shape[1] // key.shape[1]
    native = query.device.type == "cpu" or mask is None
    if not native:  # with a mask, other devices know grouped queries by their slowest kernel only
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=options.dropout,
        scale=options.scaling,
        enable_gqa=groups > 1 and native,
    )


def softcapped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: AttentionOptions,
    cap: float,
) -> Tensor:
    """[rows, H, Q, D]: attention with bounded scores, softmax in at least float32.

    `mask` is bool (True is seen) or additive; None is causal.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if options.scaling is None else options.scaling
    scores = query @ key.transpose(-1, -2) * scale
    scores = torch.tanh(scores / cap) * cap
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=dtype).to(value.dtype), options.dropout)
    return weights @ value


_NAME = "_scaled_dot_product_flash_attention_for_cpu"
_FORWARD = ("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale")
_BACKWARD = ("grad_out", "query", "key", "value", "out", "logsumexp", *_FORWARD[3:])


@functools.cache
def available() -> bool:
    """Whether this torch has the kernel in the form that is known."""
    for name, expected in ((_NAME, _FORWARD), (_NAME + "_backward", _BACKWARD)):
        operator = getattr(torch.ops.aten, name, None)
        if operator is None:
            return False
        if tuple(argument.name for argument in operator.default._schema.arguments) != expected:
            return False
    return True


def merge_fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes these tensors: on the CPU, of one type and one head size."""
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and query.shape[-1] == value.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def merged_attention(
    own: tuple[Tensor, Tensor, Tensor],
    prompt: tuple[Tensor, Tensor],
    rows: ResponseRows,
    scaling: float | None,
) -> Tensor:
    """[1, H, S, D]: attention of the S response tokens of a segment over prompt and own response.

    Args:
        own: Query [1, H, S, D], key and value [1, H / groups, S, D], one response after another.
        prompt: Key and value [1, H / groups, P, D].
        rows: How the S tokens are cut into responses.
        scaling: Factor of the scores; 1 / sqrt(D) where None.
    """
    return _Merged.apply(*own, *prompt, rows, scaling)  # type: ignore[return-value]


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, prompt_key, prompt_value, rows, scaling):
        attend = getattr(torch.ops.aten, _NAME)
        far, far_lse = attend(query, prompt_key, prompt_value, 0.0, False, scale=scaling)
        own = [rows.spread(x) for x in (query, key, value)]
        near, near_lse = attend(*own, 0.0, True, scale=scaling)
        near, near_lse = rows.join(near), rows.join(near_lse)
        lse = torch.logaddexp(far_lse, near_lse)
        out = far * _share(far_lse, lse, far) + near * _share(near_lse, lse, near)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, lse)
        ctx.rows, ctx.scaling = rows, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, prompt_key, prompt_value, out, lse = ctx.saved_tensors
        rows, scaling = ctx.rows, ctx.scaling
        differentiate = getattr(torch.ops.aten, _NAME + "_backward")
        grad = grad.contiguous()
        grad_query, grad_prompt_key, grad_prompt_value = differentiate(
            grad, query, prompt_key, prompt_value, out, lse, 0.0, False, scale=scaling
        )
        spread = [rows.spread(x) for x in (grad, query, key, value, out, lse)]
        near = differentiate(*spread, 0.0, True, scale=scaling)
        near_query, grad_key, grad_value = (rows.join(x) for x in near)
        grad_query = grad_query + near_query
        return grad_query, grad_key, grad_value, grad_prompt_key, grad_prompt_value, None, None


def _share(part: Tensor, whole: Tensor, like: Tensor) -> Tensor:
    """[1, H, S, 1]: what a part of the keys weighs in the whole softmax."""
    return torch.exp(part - whole)[..., None].to(like.dtype)
