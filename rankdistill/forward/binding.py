"""Puts the grouped forward inside a model's own `forward`, where DDP, FSDP and ZeRO see it."""

from __future__ import annotations

import functools
import logging
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn

from rankdistill.errors import UserError
from rankdistill.forward.attention import follow_groups
from rankdistill.forward.batch import TokenGroup, check_layout, collate
from rankdistill.forward.head import Binding, binding_of, hidden_states, with_groups
from rankdistill.forward.own_logits import only_linear

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def bind(model: Model, layout: str = "shared") -> Model:
    """Teaches a decoder-only model the grouped forward, in place; again: changes the layout.

    It is a causal language model, or one that classifies sequences with a layer `score`.

    ``model(group_batch=batch, head=head)`` then runs the backbone over the batch, `head` on the
    hidden states that predict response tokens, and returns what the head returns. Every other call
    is the original forward. Bind before or after peft adds adapters, and before DDP, FSDP or
    `accelerate.prepare` wrap the model.

    A model whose attention cannot follow the layout (recurrent layers, attention sinks) computes
    every batch `padded`, and one line in the log says so.

    Raises:
        UserError: an unknown layout, or a model that is neither of the two.
    """
    check_layout(layout)
    adapted: Any = model
    inner = adapted.get_base_model() if hasattr(model, "get_base_model") else adapted
    known = binding_of(inner)
    if known is None:
        known = _examine(inner, layout)
        hooked = vars(inner).get("forward")
        if hooked is None:
            inner.__class__ = _grouped(type(inner))
        else:
            inner.forward = _hooked_with_groups(inner, hooked)
    inner._rankdistill = Binding(
        layout if known.grouped else "padded", known.grouped, known.linear_head
    )
    return model


def _examine(model: Any, layout: str) -> Binding:
    name = type(model).__name__
    if model.get_output_embeddings() is None and not hasattr(model, "score"):
        raise UserError(f"{name} has no language-model head; load it as a causal language model.")
    reason = why_only_padded(model)
    if reason is None:
        follow_groups(model)
    elif layout != "padded":
        log.warning("%s computes every batch padded: %s.", name, reason)
    softcap = getattr(model.config, "attn_logit_softcapping", None)
    if softcap is not None and model.config._attn_implementation == "sdpa":
        log.warning(
            "%s has soft-capped attention, which sdpa leaves out when it generates; load it with"
            " attn_implementation=eager.",
            name,
        )
    return Binding(layout, reason is None, only_linear(model))


@functools.cache
def _grouped(plain: type) -> type:
    """A class of models with groups in their forward.

    A forward of the instance would hold the instance: such a circle stays in memory, and on the
    accelerator, until the collector comes across it.
    """
    names = ("__module__", "__qualname__", "__doc__")
    same = {name: getattr(plain, name) for name in names}
    forward = with_groups(plain.forward, takes_model=True)  # type: ignore[attr-defined]
    return type(plain.__name__, (plain,), {**same, "forward": forward})


def _hooked_with_groups(model: Any, hooked: Any) -> MethodType:
    """Groups in a forward that accelerate has put into the model itself."""
    # Call the unbound function with the model, or a deep copy would call the original one.
    # accelerate's hooks are no methods and hold the model themselves.
    method = getattr(hooked, "__func__", None)
    return MethodType(with_groups(method or hooked, takes_model=method is not None), model)


ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
PROBE = (TokenGroup([1, 2, 3], [[4, 5, 3], [2], [4, 1]]), TokenGroup([2, 4], [[1, 3], [5, 2]]))


def why_only_padded(model: Any) -> str | None:
    """Why the model can compute padded rows only, as the end of a sentence; None where it can more.

    Known reasons are read off the configuration; what an architecture does beyond that is tried, on
    two tiny groups.

    Raises:
        UserError: the model is an encoder-decoder, where a prompt is no prefix of its responses.
    """
    config = model.config
    if config.is_encoder_decoder:
        raise UserError(
            f"{type(model).__name__} is an encoder-decoder; choose a decoder-only language model."
        )
    others = set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS
    if others or getattr(model, "_is_stateful", False):
        named = f" ({', '.join(sorted(others))})" if others else ""
        return f"it has layers other than attention over all or the last tokens{named}"
    if any(name.rsplit(".", 1)[-1] == "sinks" for name, _ in model.named_parameters()):
        return "it has attention sinks"
    if not getattr(config, "is_causal", True) or getattr(
        config, "use_bidirectional_attention", False
    ):
        return "its attention is not causal"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention does not go through transformers' AttentionInterface"
    return _what_a_trial_shows(model)


def _what_a_trial_shows(model: Any) -> str | None:
    """As `why_only_padded`, from running two tiny groups through the backbone."""
    weight = model.get_input_embeddings().weight
    if weight.is_meta or weight.numel() == 0:  # nothing to try it on: weights come later
        return None
    batch = collate(PROBE, "shared").to(weight.device)
    name = model.config._attn_implementation
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            padded = hidden_states(model, batch.in_layout("padded"), grouped=True)
            shared = hidden_states(model, batch, grouped=True)
    finally:
        model.config._attn_implementation = name
        for module, training in modes:
            module.training = training
    if _has_window(model.config) and batch.plan is not None and batch.plan.windows == {None}:
        return "its attention is not told of the sliding window"
    # Parts of a float64 model compute in float32 all the same: eager softmax, some rotations.
    tolerance = max(torch.finfo(t).eps for t in (padded.dtype, torch.float32)) ** 0.5
    # Not finite: these are no weights yet (another process holds them), so nothing is shown.
    if padded.isfinite().all() and not (padded - shared).norm() <= tolerance * padded.norm():
        return "tried on two tiny groups, its layouts did not agree"
    return None


def _has_window(config: Any) -> bool:
    layer_types = getattr(config, "layer_types", None)
    return (
        getattr(config, "sliding_window", None) is not None
        and getattr(config, "use_sliding_window", True)
        and (layer_types is None or "sliding_attention" in layer_types)
    )
