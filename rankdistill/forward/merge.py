"""Attention over the prompt and over the own response apart, merged by their log-sum-exp.

The keys and values of the prompt are never copied per response, and over the prompt nothing is
padded. The idea is Hydragen's (Juravsky et al. 2024, arXiv:2402.05099), which decodes with it; here
it also has a backward pass: a part's gradient, taken with the merged output and log-sum-exp, is its
share of the whole.

It stands on torch's CPU kernel, whose operator is not public: `available` looks for the form that
is known, and where it is not found the masked attention of `attention.py` computes the same.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankdistill.forward.plan import Rows

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


def fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
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
    rows: Rows,
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
