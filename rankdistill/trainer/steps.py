"""A Trainer whose steps are exact means over their rows, however the rows are split up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from rankdistill.errors import UserError
from rankdistill.forward import bound_layout, micro_batches
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.batches import RankedBatch, Row, step_loader
from rankdistill.trainer.checkpoints import last_checkpoint


class StepTrainer(Trainer, ABC):
    """transformers' Trainer on rows of tokens (`batches.Row`), with a model that is bound.

    A step's loss is ``sum(losses) / weight`` over the step's rows, the same whatever the processes,
    the accumulation steps and `max_batch_tokens`. A subclass says what the losses are (`losses`)
    and what they are averaged over (`weight`: prompts, or response tokens).
    """

    args: RankingConfig
    model: Any

    @abstractmethod
    def losses(self, model: nn.Module, rows: Sequence[Any]) -> Tensor:
        """[k] losses of the rows, which are summed; one per row, or fewer.

        Without rows: zeros whose computation takes part in the model's collectives.
        """

    @abstractmethod
    def weight(self, rows: Sequence[Any]) -> int:
        """What a step's sum of losses is divided by is the sum of this over its rows."""

    @property
    def layout(self) -> str:
        """The layout that the model computes."""
        return bound_layout(self.model)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trainer's; `resume_from_checkpoint=True` takes the last complete one, or starts anew."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of every step, see `StepBatches`."""
        if self.train_dataset is None:
            raise UserError(f"{type(self).__name__}.train() needs a train_dataset.")
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        return step_loader(
            self.train_dataset,  # type: ignore[arg-type]
            args.prompts_per_step or self.get_total_train_batch_size(args),
            args,
            accumulation=args.gradient_accumulation_steps,
            seed=seed if args.train_sampling_strategy == "random" else None,
            drop_last=args.dataloader_drop_last,
        )

    def training_step(
        self, model: nn.Module, inputs: RankedBatch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward, part by part; returns the process's share of the step's loss.

        The shares' mean over processes is the step's loss.
        """
        model.train()
        if callable(to_train := getattr(self.optimizer, "train", None)):
            to_train()  # schedule-free optimizers have two modes
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        # The gradients are averaged over processes, the losses are to be averaged over rows.
        scale = self.accelerator.num_processes / num_items_in_batch
        # The shares are of the whole step already: DeepSpeed is not to divide them once more.
        deepspeed = self.accelerator.distributed_type is DistributedType.DEEPSPEED
        options = {"scale_wrt_gas": False} if deepspeed else {}
        parts: list[tuple[list[Any], Tensor]] = []
        syncs = self.accelerator.sync_gradients
        for number, part in enumerate(inputs.parts, start=1):
            last = number == len(inputs.parts)
            self.accelerator.gradient_state._set_sync_gradients(syncs and last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                rows = [inputs.groups[index] for index in part]
                losses = self.losses(model, rows)
                self.accelerator.backward(losses.sum() * scale, **options)
            parts.append((rows, losses.detach()))
        self._stop_unless_finite(parts)
        return torch.cat([losses for _, losses in parts]).sum().float() * scale

    def floating_point_ops(self, inputs: RankedBatch) -> int:  # type: ignore[override]
        """Trainer's estimate, 6 per parameter and token that the model computes."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return 6 * model.num_parameters(exclude_embeddings=True) * inputs.tokens(self.layout)

    def _track_num_input_tokens(self, inputs: RankedBatch) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(inputs.tokens(self.layout), device=self.args.device)
            total = self.accelerator.reduce(tokens, reduction="sum")
            self.state.num_input_tokens_seen += int(total)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """The weight of a step, over all processes; and every batch's split into forward passes.

        Every process must run the model equally often, or one would wait for the others for ever.
        """
        for batch in batch_samples:
            tokens = [row.tokens for row in batch.groups]
            batch.parts = micro_batches(tokens, self.args.max_batch_tokens, self.layout)
        rows = [row for batch in batch_samples for row in batch.groups]
        self._step_prompts = [row.prompt_id for row in rows]
        mine = [self.weight(rows), *(len(batch.parts) for batch in batch_samples)]
        everyone: Any = self.accelerator.gather(torch.tensor([mine], device=device))
        for batch, passes in zip(batch_samples, everyone[:, 1:].amax(dim=0).tolist(), strict=True):
            # Even without prompts at all one is needed: gradients are exchanged in the step's last.
            batch.parts += [[] for _ in range(max(passes, 1) - len(batch.parts))]
        return everyone[:, 0].sum()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # With fp16 the loss scaler skips such a step by itself.
        scaled = self.accelerator.scaler is not None
        if norm is not None and not scaled and not math.isfinite(float(norm)):
            stop("gradient", self._step_prompts, self)
        return norm

    def _stop_unless_finite(self, parts: list[tuple[list[Any], Tensor]]) -> None:
        bad = not_finite(parts)
        count = torch.tensor(len(bad), device=self.args.device)
        if int(self.accelerator.reduce(count, reduction="sum")) > 0:  # type: ignore[arg-type]
            stop("loss", bad, self)


def not_finite(parts: Sequence[tuple[Sequence[Row], Tensor]]) -> list[str]:
    """The ids of the prompts whose loss is NaN or infinite.

    Args:
        parts: Rows and their losses [k]; where these are not one per row, all the rows are named.
    """
    names: list[str] = []
    for (rows, losses), finite in zip(parts, _all_finite(parts), strict=True):
        each = losses.isfinite().tolist() if not finite and len(losses) == len(rows) else None
        named = (
            rows if each is None else [r for r, good in zip(rows, each, strict=True) if not good]
        )
        names += [] if finite else [row.prompt_id for row in named]
    return names


def _all_finite(parts: Sequence[tuple[Sequence[Row], Tensor]]) -> list[bool]:
    """Of each part. One transfer from the device for all of them."""
    return torch.stack([losses.isfinite().all() for _, losses in parts]).tolist()


def stop(what: str, prompt_ids: list[str], trainer: Any) -> NoReturn:
    """Raises UserError on every process, with the prompts of all; every process must call it."""
    names: list[str] = gather_object(prompt_ids)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    checkpoint = last_checkpoint(trainer.args.output_dir)
    raise UserError(
        f"The {what} is not finite at step {trainer.state.global_step + 1}, on the prompts "
        f"{', '.join(names[:8])}{more}: lower learning_rate or look at these rows, then continue "
        f"from {checkpoint or 'the start, since there is no checkpoint'}."
    )
