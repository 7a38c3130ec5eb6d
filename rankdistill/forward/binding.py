"""The grouped forward inside a model's own `forward`, where DDP, FSDP and ZeRO see it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.errors import UserError
from rankdistill.forward.attention import register
from rankdistill.forward.batch import GroupBatch, check_layout, sum_by_candidate
from rankdistill.forward.capability import why_only_padded
from rankdistill.forward.head import Head, LMHead, TokenLogps, only_linear

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probabilities of the responses of a batch, nats."""

    logps: Tensor
    """[B, C] sum over the response's tokens, EOS included; 0 where there is no candidate."""
    token_logps: Tensor
    """[N] in the order of `batch.targets`."""
    lengths: Tensor
    """[B, C] tokens that were summed."""


@dataclass(frozen=True)
class _Binding:
    """What was found out about a model when it was bound."""

    layout: str
    grouped: bool
    linear_head: bool


def bind(model: Any, layout: str = "shared") -> Any:
    """Teaches a causal language model the grouped forward, in place; binding again changes the layout.

    ``model(group_batch=batch, head=head)`` then runs the backbone on the batch and `head` on the rows
    that predict response tokens, and returns what the head returns. Every other call is the original
    forward. Bind before or after peft, and before DDP, FSDP or `accelerate.prepare` wrap the model.

    A model whose attention cannot follow the layout (recurrent layers, attention sinks) computes every
    batch `padded`, and one line in the log says so.

    Raises:
        UserError: an unknown layout, or a model that is no decoder-only language model.
    """
    check_layout(layout)
    inner = _inner(model)
    bound = _binding(inner)
    if bound is None:
        reason = why_only_padded(inner)
        if reason is None:
            inner.config._attn_implementation = register(inner.config._attn_implementation)
        else:
            log.warning("%s computes groups padded: %s.", type(inner).__name__, reason)
        bound = _Binding(layout, reason is None, only_linear(inner))
        inner.forward = MethodType(_with_groups(type(inner).forward), inner)
    inner._rankdistill = _Binding(
        layout if bound.grouped else "padded", bound.grouped, bound.linear_head
    )
    return model


def bound_layout(model: Any) -> str:
    """The layout a bound (and perhaps wrapped) model computes: `padded` where it can do no other."""
    for module in model.modules():
        binding = _binding(module)
        if binding is not None:
            return binding.layout
    raise UserError(
        f"{type(model).__name__} is not bound; call rankdistill.forward.bind(model) before wrapping it."
    )


def response_logps(model: Any, batch: GroupBatch, *, temperature: float = 1.0) -> ResponseLogps:
    """Log-probabilities of every response of the batch under a bound model, with gradients.

    Args:
        model: Bound with `bind`, and perhaps wrapped since (DDP, peft).
        batch: In any layout, on the model's device.
        temperature: Logits are divided by it.
    """
    bound_layout(model)
    token_logps = model(group_batch=batch, head=TokenLogps(temperature))
    return ResponseLogps(sum_by_candidate(token_logps, batch), token_logps, batch.lengths)


def _inner(model: Any) -> PreTrainedModel:
    """The transformers model, without the adapter wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _binding(module: nn.Module) -> _Binding | None:
    return module.__dict__.get("_rankdistill")


def _with_groups(original: Callable) -> Callable:
    @functools.wraps(original)
    def forward(
        self: Any,
        *args: Any,
        group_batch: GroupBatch | None = None,
        head: Head | None = None,
        **kwargs: Any,
    ) -> Any:
        if group_batch is None:
            return original(self, *args, **kwargs)
        return _grouped_forward(self, group_batch, head or TokenLogps())

    return forward


def _grouped_forward(model: Any, batch: GroupBatch, head: Head) -> Any:
    binding: _Binding = model._rankdistill
    if not binding.grouped:
        batch = batch.in_layout("padded")
    hidden = _backbone(model, batch, binding).flatten(0, 1).index_select(0, batch.predictors)
    return head(hidden, LMHead(model, binding.linear_head), batch)


def _backbone(model: Any, batch: GroupBatch, binding: _Binding) -> Tensor:
    """[rows, T, D]: the last hidden states of the batch as it lies."""
    if batch.plan is None:
        extra = {"apply_softcap": True} if binding.grouped else {}
        extra["attention_mask"] = batch.attention_mask
    else:
        # A mask of four axes is handed to the layers as it is, so none is built; the plan says more.
        nothing = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device)
        extra = dict(attention_mask=nothing, position_ids=batch.position_ids, group_plan=batch.plan)
    output = model.base_model(input_ids=batch.input_ids, use_cache=False, return_dict=True, **extra)
    return output.last_hidden_state
