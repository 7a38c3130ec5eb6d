"""Whether a model's attention can follow the grouped layouts."""

from __future__ import annotations

from typing import Any

from rankdistill.errors import UserError

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


def why_only_padded(model: Any) -> str | None:
    """Why the model can compute padded rows only, as the end of a sentence; None where it can do more.

    Raises:
        UserError: the model is an encoder-decoder, which has no prompt in the response's sequence.
    """
    config = model.config
    if config.is_encoder_decoder:
        raise UserError(
            f"{type(model).__name__} is an encoder-decoder; choose a decoder-only language model."
        )
    others = set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS
    if getattr(model, "_is_stateful", False) or others:
        named = f" ({', '.join(sorted(others))})" if others else ""
        return f"it has layers that are not plain attention{named}"
    if any(name.rsplit(".", 1)[-1] == "sinks" for name, _ in model.named_parameters()):
        return "it has attention sinks"
    if not getattr(config, "is_causal", True) or getattr(
        config, "use_bidirectional_attention", False
    ):
        return "its attention is not causal"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced through transformers' AttentionInterface"
    return None
