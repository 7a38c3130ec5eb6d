"""The shape of a model, from its configuration alone: the model is built without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rankdistill.errors import UserError
from rankdistill.models.load import load_config


@dataclass(frozen=True)
class Shape:
    """What memory and time are worked out from."""

    parameters: int
    matrices: float
    """Weights of the layers that a token goes through, of a mixture those it is sent to."""
    linear: int
    """Weights of the linear layers but the output layer: what adapters and QLoRA take hold of."""
    linear_sizes: int
    """Inputs and outputs of those layers, added up; times r, an adapter's weights."""
    layers: int
    hidden: int
    intermediate: int
    queries: int
    """Numbers that a token's queries have in a layer, all heads together."""
    keys: int
    """Numbers of a token's keys, and again of its values."""
    heads: int
    vocabulary: int
    gated: bool

    @property
    def embeddings(self) -> int:
        """Weights that are neither in a linear layer nor small: tables and the output layer."""
        return self.parameters - self.linear

    def lora(self, r: int) -> int:
        """Weights of adapters of rank r on every linear layer."""
        return r * self.linear_sizes


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Configurations by the name of a model, as `AutoConfig.for_model` takes them."""
    return {name: entry["config"] for entry in _known()["models"] for name in entry["names"]}


@cache
def known_data() -> dict[str, dict[str, int]]:
    """Rows and responses by the name of a data set."""
    return _known()["data"]


@cache
def known_suites() -> dict[str, dict[str, int]]:
    """Items, and tokens read and written for each, by the name of a suite of `eval`."""
    return _known()["suites"]


def shape_of(
    path: str,
    *,
    keep_layers: int | None = None,
    like: Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
) -> Shape:
    """The shape of a model by the name that a run gives it.

    Args:
        path: As for `rankdistill.models.locate`; of a hub model the configuration alone is fetched,
            of a known one nothing.
        keep_layers: Layers that are left of it.
        like: Known models that others are shaped like.

    Raises:
        UserError: neither known nor at hand.
    """
    config = _config(path, like or {}, trust_remote_code)
    code = config.name_or_path if getattr(config, "auto_map", None) and trust_remote_code else None
    return _shape(config.to_json_string(), keep_layers, type(config), code)


def _known() -> dict[str, Any]:
    return yaml.safe_load((files("rankdistill.plan") / "known.yaml").read_text(encoding="utf-8"))


def _config(path: str, like: Mapping[str, str], trust_remote_code: bool) -> PretrainedConfig:
    name = like.get(path, path).partition("@")[0]
    if name in known_models():
        return AutoConfig.for_model(**known_models()[name])
    if path in like:
        listed = ", ".join(sorted(known_models()))
        raise UserError(f"plan.like names '{name}', whose shape is not known; known are {listed}.")
    try:
        return load_config(path, trust_remote_code=trust_remote_code)
    except UserError as error:
        raise UserError(
            f"The shape of '{path}' is not known ({str(error).rstrip('.')}); give its folder, or a "
            f"known model of the same shape: 'plan.like={{{path}: mistralai/Mistral-7B-v0.1}}'."
        ) from error


@cache
def _shape(
    config_json: str, keep_layers: int | None, kind: type[PretrainedConfig], code: str | None = None
) -> Shape:
    """Of a configuration; `code` is the folder of a network that comes with it."""
    import json

    whole = kind.from_dict(json.loads(config_json))
    whole.name_or_path = code or ""
    config: Any = whole.get_text_config()
    if keep_layers is not None:
        config.num_hidden_layers = min(keep_layers, config.num_hidden_layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(whole, trust_remote_code=code is not None)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        matrices=_matrices(model, head, config),
        linear=sum(m.weight.numel() for m in linear),
        linear_sizes=sum(m.in_features + m.out_features for m in linear),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=inner,
        queries=config.num_attention_heads * size,
        keys=key_heads * size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        gated=any(
            name.endswith(("gate_proj", "gate_up_proj")) for name, _ in model.named_modules()
        ),
    )


def _matrices(model: nn.Module, head: nn.Module, config: Any) -> float:
    """Weights that a token is multiplied with in the layers; three axes are a mixture's experts."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    used = (getattr(config, "num_experts_per_tok", None) or 1) / experts if experts else 1.0
    total = 0.0
    for module in model.modules():
        if module is head or isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dim() >= 2:
                total += parameter.numel() * (used if parameter.dim() == 3 else 1.0)
    return total
