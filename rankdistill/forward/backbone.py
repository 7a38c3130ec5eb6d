"""The last hidden states of a batch of groups, whatever its layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rankdistill.forward.attention import register
from rankdistill.forward.batch import GroupBatch


def hidden_states(model: Any, batch: GroupBatch, *, grouped: bool) -> Tensor:
    """[N, D]: the hidden states that predict the response tokens, after the backbone's last norm.

    `grouped`: the model's attention may be handed a plan; where it may not, the batch is padded.
    """
    if not grouped:
        batch = batch.in_layout("padded")
    else:
        follow_groups(model)
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False, "return_dict": True}
    if batch.plan is None and grouped:
        # No mask: padding is on the right, where causal attention does not look.
        inputs["in_rows"] = True
    elif batch.plan is None:
        inputs["attention_mask"] = batch.attention_mask
    else:
        # A mask of four axes goes to the layers as it is: none is built, and the plan replaces it.
        device = batch.input_ids.device
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        inputs["position_ids"] = batch.position_ids
        inputs["group_plan"] = batch.plan
    hidden = getattr(model, backbone_name(model))(**inputs).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.predictors.to(hidden.device))


def backbone_name(model: Any) -> str:
    """The attribute that holds the backbone: what the architecture says, or the usual names."""
    names = (model.base_model_prefix, "model", "transformer")
    return next(name for name in names if hasattr(model, name))


def follow_groups(model: Any) -> None:
    """Lets the model's attention implementation follow group plans.

    At every call, because `set_attn_implementation` may have changed it. It is left in place
    afterwards: gradient checkpointing runs the layers again during the backward pass.
    """
    name = model.config._attn_implementation
    following = register(name)
    if following != name:
        model.config._attn_implementation = following
