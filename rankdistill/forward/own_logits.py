"""The logits that a model's own forward makes of hidden states, whatever its code there does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rankdistill.forward.attention import backbone_name


class _Backbone:
    """Hidden states that are there already, in the place of the backbone that computes them.

    It is the backbone, the part of it that is called (`model.decoder`), and its output.
    """

    def __init__(self, backbone: nn.Module, hidden: Tensor) -> None:
        self._backbone = backbone
        self.last_hidden_state = hidden[None]

    def __call__(self, *args: Any, **kwargs: Any) -> _Backbone:
        return self

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> _Backbone | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return self if isinstance(getattr(self._backbone, name, None), nn.Module) else None


class _WithoutBackbone:
    """A model whose backbone returns given hidden states; everything else is the model's."""

    def __init__(self, model: Any, hidden: Tensor) -> None:
        self._model = model
        name = backbone_name(model)
        setattr(self, name, _Backbone(getattr(model, name), hidden))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def own_logits(model: Any, hidden: Tensor) -> Tensor:
    """[N, D] -> [N, V]: the logits that the model's own forward makes of hidden states.

    The code after the backbone differs between architectures (soft-caps, scales); running it,
    rather than listing what it may do, is right for all of them.
    """
    return type(model).forward(_WithoutBackbone(model, hidden), return_dict=True).logits[0]


@torch.no_grad()
def only_linear(model: Any) -> bool:
    """Whether the model's forward does nothing after its linear output layer: tried on two rows."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or layer.weight.is_meta or layer.weight.numel() == 0:
        return False
    if layer.in_features != model.config.get_text_config().hidden_size:
        return False
    rows = torch.linspace(-3, 3, 2 * layer.in_features).view(2, -1).to(layer.weight)
    return torch.equal(own_logits(model, rows), layer(rows[None])[0])
