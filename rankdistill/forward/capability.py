"""Whether a model's attention can follow the layouts in which prompts are shared or packed."""

from __future__ import annotations

from typing import Any

import torch

from rankdistill.errors import UserError
from rankdistill.forward.backbone import hidden_states
from rankdistill.forward.batch import TokenGroup, collate

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
