"""A trained model as the next stage reads it: whole and plain."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer

from rankdistill.models import merged, save_model


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    load: Callable[[], Any],
) -> None:
    """Writes the trainer's model: adapters merged, gathered where processes hold shards of it.

    Under DeepSpeed as well the weights are those that were trained, in float32. Every process calls
    this, since gathering takes all; the first one writes.

    Args:
        trainer: After its training.
        tokenizer: Saved beside the model.
        folder: New or empty.
        load: Builds the untrained model, into which the gathered weights are loaded.
    """
    accelerator = trainer.accelerator
    model: Any = accelerator.unwrap_model(trainer.model)
    writes = trainer.is_world_process_zero()
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        weights = accelerator.get_state_dict(trainer.model_wrapped)
        of_deepspeed = accelerator.distributed_type is DistributedType.DEEPSPEED
        exact = masters(model, writes) if of_deepspeed else {}
        if writes:
            model = load()  # tied weights may have one name only
            model.load_state_dict({**weights, **exact}, strict=False)
    if writes:
        save_model(merged(model), tokenizer, folder)
    accelerator.wait_for_everyone()


def masters(model: Any, kept: bool) -> dict[str, Tensor]:
    """The float32 numbers that DeepSpeed trains, of which the model has them rounded to 16 bits.

    Every process takes part in gathering each; those that do not write keep none.
    """
    exact: Any = import_module("deepspeed.utils").safe_get_full_fp32_param
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        whole = exact(parameter) if parameter.requires_grad else None
        if kept and whole is not None:
            found[name] = whole.cpu()
    return found
