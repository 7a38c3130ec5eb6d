"""How a warm-up is optimised: its options, and what they are for a Trainer."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from rankdistill.trainer.checkpoints import last_checkpoint
from rankdistill.warmup.schema import Optimisation
from rankdistill.warmup.warmup import Training

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def training_arguments(
    kind: type[Arguments],
    options: Optimisation,
    how: Training,
    precision: str,
    *,
    measured: bool = False,
    **more: Any,
) -> Arguments:
    """The Trainer's arguments for `options`; `more` are further ones of `kind`.

    Args:
        precision: Of the student's forward and backward pass.
        measured: Whether there are rows to measure on.
    """
    on_cpu = not torch.accelerator.is_available()
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return kind(
        output_dir=str(how.checkpoints),
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        lr_scheduler_type=options.lr_scheduler_type,
        warmup_steps=options.warmup_ratio,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=False,  # the model is told, see `enable_gradient_checkpointing`
        logging_steps=options.logging_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        eval_strategy="steps" if measured else "no",
        eval_steps=options.eval_steps,
        # What is measured before the first step; a run that continues has measured it.
        eval_on_start=measured and last_checkpoint(how.checkpoints) is None,
        optim="adamw_torch_fused",
        seed=how.seed,
        report_to=list(how.report_to) or "none",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_liger_kernel=how.use_liger_kernel,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and several else None,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        **more,
    )
