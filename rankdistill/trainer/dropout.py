"""No dropout where log-probabilities are compared with each other."""

from __future__ import annotations

from torch import nn


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout probability of the model to 0, in place, LoRA's included.

    A ranking compares log-probabilities of the same model; noise in them is noise in the order, and
    a policy with dropout differs from its reference before the first step. Covers the modules and
    the probabilities that attention layers keep as numbers (`attention_dropout`, `layerdrop`).
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
