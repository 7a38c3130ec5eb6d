"""The precision of a model that FSDP or ZeRO shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy


def keep_float32(accelerator: Any) -> None:
    """Has FSDP2 leave what a model returns as it is, and add gradients up in float32.

    accelerate's own policy rounds both to the precision of the weights: log-probabilities, which
    are computed in float32, then have 3 digits. To be called before `accelerator.prepare`.
    """
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if isinstance(policy, MixedPrecisionPolicy) and policy.param_dtype is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )


@contextmanager
def weights_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Computes as a sharded model does: in `dtype` throughout, where autocast leaves norms be.

    A reference that is taken so has the log-probabilities of the policy that begins as it.
    """
    kept = [(parameter, parameter.data) for parameter in model.parameters()]
    for parameter, data in kept:
        if data.is_floating_point():
            parameter.data = data.to(dtype)
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
