"""What a `RankingTrainer` can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import TrainingArguments

from rankdistill.errors import UserError, suggest
from rankdistill.forward import LAYOUTS
from rankdistill.optimiser import Optimiser

STRATEGIES = ("random", "sequential", "group_by_cluster")


def optimised(options: Optimiser, precision: str) -> dict[str, Any]:
    """Arguments of any Trainer of transformers', but for the learning rate.

    Args:
        options: Keys of a training.
        precision: Of the forward and backward pass.
    """
    return {
        "num_train_epochs": options.epochs,
        "lr_scheduler_type": options.lr_scheduler_type,
        "warmup_steps": options.warmup_ratio,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "logging_steps": options.logging_steps,
        "save_steps": options.save_steps,
        "save_total_limit": 2,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "disable_tqdm": True,
    }


class CommonArguments:
    """What the arguments of every training have otherwise than transformers'."""

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Never all: the first has no learning rate, so a training of one would learn nothing."""
        steps: int = super().get_warmup_steps(num_training_steps)  # type: ignore[misc]
        return min(steps, max(num_training_steps - 1, 0))

    @cached_property
    def _setup_devices(self) -> torch.device:
        """Plainly the CPU where it is one.

        accelerate numbers that of several processes, ``cpu:0``, and no optimiser's state can be
        loaded onto a device of that name: a training of several could not be continued.
        """
        found: torch.device = super()._setup_devices  # type: ignore[misc]
        return torch.device("cpu") if found.type == "cpu" else found


@dataclass
class RankingConfig(CommonArguments, TrainingArguments):
    """transformers' `TrainingArguments` with what a ranking adds, and defaults that suit one.

    Args:
        layout: How a group goes through the model: `shared` computes its prompt once, `packed`
            repeats it without padding, `padded` is the plain batch.
        max_batch_tokens: Tokens of one forward and backward pass. A step is split into as many as
            it takes, so it changes memory and speed, and no gradient.
        prompts_per_step: Prompts of one optimizer step, over all processes and accumulation steps;
            sets `per_device_train_batch_size`. None: that times processes times accumulation steps.
        temperature: The policy's and the reference's logits are divided by it; > 0. The temperature
            that the responses were sampled at gives the probabilities that they were sampled from.
        max_length: Most tokens of a prompt with its longest response. Longer groups are left out,
            never truncated. None: the model's context.

    `train_sampling_strategy` is `random`, `sequential`, or `group_by_cluster`: random, with rows of
    one `cluster` in one step. Where these ask for opposite things, what is common to both cancels
    within the step, and only what depends on the request is learned.

    `use_liger_kernel` takes Liger's norms, rotations and MLPs, and never its loss: that would
    replace the model's forward, in which groups are computed.

    Where there is no accelerator it trains on the CPU, several processes through gloo. Precision is
    the model's own, with `bf16=True` under autocast.

    Raises:
        UserError: a value out of its range.
    """

    layout: str = field(default="shared", metadata={"help": "shared, packed or padded."})
    max_batch_tokens: int = field(
        default=4096, metadata={"help": "Tokens of one forward and backward pass."}
    )
    prompts_per_step: int | None = field(
        default=None, metadata={"help": "Prompts of one optimizer step, over all processes."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Logits are divided by it."})
    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a prompt with its longest response."}
    )

    # The defaults of transformers that do not suit a ranking.
    optim: str = field(default="adamw_torch_fused", metadata={"help": "The optimizer."})  # type: ignore[assignment]
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak; RRHF's by default."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Steps, or below 1 the share of steps, of the warm-up."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Steps between logged figures."})
    report_to: str | list[str] | None = field(
        default_factory=list, metadata={"help": "Trackers: tensorboard, wandb, trackio, mlflow."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Rows are read by the trainer, not by the model."}
    )
    dataloader_pin_memory: bool = field(
        default=False, metadata={"help": "Batches hold token ids, tensors are made per pass."}
    )
    # A loss that is not finite stops the training, which one look per step finds out.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether such losses are left out of the logged mean."}
    )
    # A search for unused parameters in every backward pass finds none: the whole policy is used.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether some parameters may stay without gradient."}
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.use_cpu and self.ddp_backend is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            self.ddp_backend = "gloo"
        self._check()
        if self.use_liger_kernel:
            self.liger_kernel_config = {
                **(self.liger_kernel_config or {}),
                "fused_linear_cross_entropy": False,
            }
        super().__post_init__()
        # Several GPUs in one process would be DataParallel, which cannot split a batch of groups.
        self._n_gpu = min(self.n_gpu, 1)
        if self.prompts_per_step is not None:
            shares = self.world_size * self.gradient_accumulation_steps
            self.per_device_train_batch_size = -(-self.prompts_per_step // shares)

    def _check(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"There is no layout '{self.layout}'; {suggest(self.layout, LAYOUTS)}")
        if not self.temperature > 0:
            raise UserError(
                f"temperature is {self.temperature}, but logits are divided by it: give more."
            )
        if (self.liger_kernel_config or {}).get("fused_linear_cross_entropy"):
            raise UserError(
                "liger_kernel_config turns fused_linear_cross_entropy on, which would replace the "
                "forward that groups go through: leave it out, their head is fused by itself."
            )
        for name in ("max_batch_tokens", "prompts_per_step", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: give at least 1.")
        if self.train_sampling_strategy not in STRATEGIES:
            raise UserError(
                f"train_sampling_strategy '{self.train_sampling_strategy}' is none of "
                f"{', '.join(STRATEGIES)}; no step's prompts are chosen by their length."
            )
