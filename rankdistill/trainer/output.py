"""A trained model as the next stage reads it: whole and plain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from transformers import PreTrainedTokenizerBase, Trainer

from rankdistill.models import merged, save_model


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    load: Callable[[], Any],
) -> None:
    """Writes the trainer's model: adapters merged, gathered where processes hold shards of it.

    Every process calls this, since gathering takes all; the first one writes.

    Args:
        trainer: After its training.
        tokenizer: Saved beside the model.
        folder: New or empty.
        load: Builds the untrained model, into which the gathered weights are loaded.
    """
    accelerator = trainer.accelerator
    model: Any = accelerator.unwrap_model(trainer.model)
    if _sharded(accelerator):
        weights = accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_world_process_zero():
            model = load()
            model.load_state_dict(weights, strict=False)  # tied weights may have one name only
    if trainer.is_world_process_zero():
        save_model(merged(model), tokenizer, folder)
    accelerator.wait_for_everyone()


def _sharded(accelerator: Any) -> bool:
    """Whether no process has all of the model (FSDP, ZeRO-3)."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        return accelerator.deepspeed_config["zero_optimization"]["stage"] == 3
    return accelerator.distributed_type is DistributedType.FSDP
