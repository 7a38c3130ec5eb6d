"""A smaller student from the same model: which layers matter, and a model made of some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.errors import UserError

_BATCH_TOKENS = 4096


@torch.no_grad()
def layer_influence(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[float]:
    """How much each layer changes the hidden state: Block Influence of ShortGPT.

    1 - cosine(hidden state before the layer, after it), averaged over all tokens of the prompts
    (Men et al. 2024, arXiv:2403.03853, equation 1). Padding is not counted. The states are taken
    at the layers themselves, so the last one is compared before the model's final norm, which
    transformers' `output_hidden_states` would include.

    Args:
        model: In evaluation mode, on any device.
        prompts: Token ids without padding, no prompt empty, at least one prompt.

    Returns:
        One value per layer, in [0, 2]; the smallest is the least influential.
    """
    layers = decoder_layers(model)
    totals = torch.zeros(len(layers), dtype=torch.float64)
    with _similarities(layers) as similarities:
        for ids, mask in _batches(prompts):
            real = mask.bool().to(model.device)
            model(input_ids=ids.to(model.device), attention_mask=real.long(), use_cache=False)
            for index, similarity in similarities.items():
                totals[index] += similarity[real].double().sum().cpu()
    return (1 - totals / sum(map(len, prompts))).tolist()


def influential_layers(influence: Sequence[float], keep: int) -> list[int]:
    """Indices of the `keep` most influential layers, ascending; of equals the lower ones stay.

    Raises:
        UserError: more layers are to be kept than there are, or none.
    """
    _check_keep(len(influence), keep)
    order = sorted(range(len(influence)), key=lambda index: (-influence[index], index))
    return sorted(order[:keep])


def evenly_spaced_layers(layers: int, keep: int) -> list[int]:
    """Indices of `keep` layers from the first to the last in equal steps (DistilBERT's choice).

    Raises:
        UserError: more layers are to be kept than there are, or none.
    """
    _check_keep(layers, keep)
    return [round(step * (layers - 1) / max(keep - 1, 1)) for step in range(keep)]


def first_layers(layers: int, keep: int) -> list[int]:
    """Indices of the layers next to the input; their states are those of the whole model.

    Raises:
        UserError: more layers are to be kept than there are, or none.
    """
    _check_keep(layers, keep)
    return list(range(keep))


def keep_layers(model: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """A new model of the given layers of `model`, which stays as it is and shares nothing with it.

    The layers are renumbered, and what the configuration says for each layer (their count, their
    attention types) is cut along, so that plain transformers loads the saved model.

    Args:
        model: A decoder whose configuration has `num_hidden_layers`; not yet bound to a forward.
        indices: Layers to keep, ascending.

    Raises:
        UserError: no layer, an unknown one, or one twice or out of order.
    """
    layers = decoder_layers(model)
    if not indices or list(indices) != sorted(set(indices) & set(range(len(layers)))):
        raise UserError(
            f"The layers to keep, {list(indices)}, must be ascending numbers from 0 to "
            f"{len(layers) - 1}, each once."
        )
    dropped = [layer for index, layer in enumerate(layers) if index not in indices]
    # Dropped layers are not copied: the memo says they have been, as nothing.
    student = copy.deepcopy(model, {id(layer): nn.Identity() for layer in dropped})
    copied = decoder_layers(student)
    kept = [copied[index] for index in indices]
    for new, (old, layer) in enumerate(zip(indices, kept, strict=True)):
        _renumber(layer, old, new)
    del copied[:]
    copied.extend(kept)
    _cut_config(student.config.get_text_config(), len(layers), indices)
    return student


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a decoder's layers, wherever the architecture keeps it.

    Raises:
        UserError: the model has no list of `num_hidden_layers` layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"Layers of a {model.config.model_type} model cannot be told apart: "
        f"choose a student of its own instead of dropping layers."
    )


def _check_keep(layers: int, keep: int) -> None:
    if not 1 <= keep <= layers:
        raise UserError(
            f"{keep} layers cannot be kept of a model with {layers}: choose 1 to {layers}."
        )


@contextmanager
def _similarities(layers: nn.ModuleList) -> Iterator[dict[int, Tensor]]:
    """By layer, the cosine [B, T] of its input and output in the latest forward."""
    latest: dict[int, Tensor] = {}

    def watch(index: int, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def compare(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            latest[index] = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)

        return layer.register_forward_hook(compare, with_kwargs=True)

    handles = [watch(index, layer) for index, layer in enumerate(layers)]
    try:
        yield latest
    finally:
        for handle in handles:
            handle.remove()


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask [B, T], padded on the right; prompts of like length together."""
    waiting: list[Tensor] = []
    for prompt in sorted(prompts, key=len):
        if waiting and len(prompt) * (len(waiting) + 1) > _BATCH_TOKENS:
            yield _pad(waiting)
            waiting = []
        waiting.append(torch.tensor(prompt))
    if waiting:
        yield _pad(waiting)


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad([torch.ones_like(r) for r in rows], batch_first=True)


def _renumber(layer: nn.Module, old: int, new: int) -> None:
    module: Any
    for module in layer.modules():
        if getattr(module, "layer_idx", None) == old:
            module.layer_idx = new


def _cut_config(config: Any, layers: int, indices: Sequence[int]) -> None:
    """Sets the layer count, and cuts the configuration's lists that have an entry per layer."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, [value[index] for index in indices])
    config.num_hidden_layers = len(indices)
