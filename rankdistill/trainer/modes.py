"""What a model is told before it trains: no dropout, activations computed again; and the precision
of one that FSDP or ZeRO shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten
KEPT = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
    }
)
"""What `selective` does not compute again. An operation that is missing costs its time only, as
FlexAttention does on CUDA: its compiled kernel is no operation that could be named here."""


def enable_gradient_checkpointing(model: Any, choice: bool | str) -> None:
    """Has the layers of a model keep less for the backward pass, in place; changes no gradient.

    Args:
        model: A transformers or peft model.
        choice: True: layers keep their inputs and are computed again. `selective`: they keep the
            results of matrix products and attention as well, which take nearly all of the time, and
            compute again what is between them: norms, activation functions, rotations (selective
            activation recomputation, Korthikanti et al. 2022, arXiv:2205.05198, who recompute the
            attention; fused attention keeps little, so here it stays). False: nothing changes.
    """
    if not choice:
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if choice == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    model.gradient_checkpointing_enable(options)


def _policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    kept = operation in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


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


class KeepsFloat32:
    """Comes before a Trainer of transformers' among the bases of a class; see `keep_float32`."""

    accelerator: Any

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's; what a sharded model returns stays in float32."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        keep_float32(self.accelerator)


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
