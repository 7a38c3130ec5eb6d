"""LoRA: a frozen model with low-rank adapters that are trained, and the plain model of the two.

Hu et al. 2021, arXiv:2106.09685; over quantised weights QLoRA, Dettmers et al. 2023,
arXiv:2305.14314. The adapters are peft's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.errors import UserError, first_line
from rankdistill.models.load import load_model
from rankdistill.schema import check_lora

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRA:
    """Adapters on a student, and how the weights under them are held.

    Args:
        r: Rank, at least 1.
        alpha: The adapters' product is multiplied by ``alpha / r``; above 0.
        dropout: Of the adapters' inputs, in [0, 1).
        target_modules: As in peft: names of layers, a pattern, or `all-linear` for every linear
            layer but the output layer.
        quantization: Of the frozen weights, see `load_model`; None keeps them whole.

    Raises:
        UserError: a value out of its range.
    """

    r: int
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] = ALL_LINEAR
    quantization: str | None = None

    def __post_init__(self) -> None:
        check_lora(self)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What trained weights depend on; hashed."""
        names = self.target_modules
        listed = names if isinstance(names, str) else sorted(names)
        return {**vars(self), "target_modules": listed}

    @property
    def peft_config(self) -> LoraConfig:
        """The same for peft."""
        names = self.target_modules
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=names if isinstance(names, str) else list(names),
            task_type="CAUSAL_LM",
        )

    def on(self, model: PreTrainedModel, seed: int = 0) -> PeftModel:
        """As `adapted`.

        Raises:
            UserError: the model has no such layer.
        """
        try:
            return adapted(model, self.peft_config, seed)
        except ValueError as error:
            raise UserError(
                f"student.lora.target_modules does not fit {type(model).__name__}: "
                f"{first_line(error)}"
            ) from error


def adapted(model: PreTrainedModel, config: PeftConfig, seed: int) -> PeftModel:
    """The model with new adapters, which change nothing yet; the model is frozen, in place.

    How they start depends on the seed alone, so it is the same in every process of a launch.

    Raises:
        UserError: an adapter on a layer whose weights another layer has as well: merging it would
            change both, and the saved model would be another than the trained one.
    """
    tied = _tied_layers(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = get_peft_model(model, config)
    for layer in made.modules():
        if getattr(layer, "base_layer", None) in tied:
            raise UserError(
                f"student.lora.target_modules adapts '{tied[layer.base_layer]}', and this model's "
                "input and output embeddings are one table, which an adapter on one of them cannot "
                "change alone: leave it out."
            )
    return made


def _tied_layers(model: PreTrainedModel) -> dict[nn.Module, str]:
    """The names of the embedding and of the output layer, where they share their weights."""
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    if None in layers or layers[0].weight is not layers[1].weight:
        return {}
    names = {layer: name.rpartition(".")[2] for name, layer in model.named_modules()}
    return {layer: names[layer] for layer in layers}


def load_trainable(
    path: str,
    *,
    precision: str = "float32",
    lora: LoRA | None = None,
    seed: int = 0,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> Any:
    """A student whose weights, or whose adapters, are about to be trained, in float32.

    Under autocast in a lower precision, weights that are trained stay in float32: a step is smaller
    than the distance between neighbouring bfloat16 numbers. Weights under adapters are frozen, and
    held in `precision` or quantised.

    Args:
        path: See `load_model`, with its other arguments.
        precision: Of the forward and backward pass.
        lora: The adapters; None trains all weights.
        seed: Of the adapters' start.

    Raises:
        UserError: as `load_model` and `LoRA.on`.
    """
    model = load_model(
        path,
        precision="float32" if lora is None else precision,
        quantization=None if lora is None else lora.quantization,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    return model if lora is None else lora.on(model, seed)


def merged(model: Any) -> PreTrainedModel:
    """The plain model that computes what `model` does; a model without adapters is that itself.

    The adapters' products are added to the weights they adapt, in place, in the weights' precision.
    Quantised weights become numbers again first: what the adapters were trained on, without the
    rounding that quantising the sum would add.
    """
    if not isinstance(model, PeftModel):
        return model
    base = model.get_base_model()
    if getattr(base, "is_quantized", False):
        adapters: dict[str, Tensor] = get_peft_model_state_dict(model)
        config = model.peft_config["default"]
        plain: Any = model.unload()  # type: ignore[operator]
        model = get_peft_model(plain.dequantize(), config)  # type: ignore[assignment]
        set_peft_model_state_dict(model, adapters)
    return model.merge_and_unload()  # type: ignore[operator]


def merged_copy(model: Any) -> PreTrainedModel:
    """As `merged`, but `model` keeps its adapters: what is written while they are still trained."""
    return merged(copy.deepcopy(model) if isinstance(model, PeftModel) else model)


class WithoutAdapters(nn.Module):
    """The model that adapters are on, as it was before they were trained; takes no memory."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.model.disable_adapter():
            return self.model(*args, **kwargs)
