"""The step that every training shares: its batches, its micro-batches, where it stops."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainingArguments

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bound_layout, micro_batches, token_count
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.checkpoints import last_checkpoint
from rankdistill.trainer.finite import not_finite, stop
from rankdistill.trainer.memory import (
    IN_STEP,
    BeforeStep,
    Watch,
    anyone,
    refuse,
    smaller_budget,
)
from rankdistill.trainer.sharded import keep_float32

NOTHING = TokenGroup([0], [[0]])
"""What a process that has no rows left runs the model on, since the others wait for it."""


def equally_many(parts: list[list[int]], passes: int) -> list[list[int]]:
    """A process's forward passes, as indices, filled up with empty ones.

    Every process must run the model equally often, or one would wait for the others for ever.
    """
    return parts + [[] for _ in range(passes - len(parts))]


class StepTrainer(Trainer, ABC):
    """transformers' Trainer on rows of tokens (`batches.Row`), with a model that is bound.

    A step's loss is ``sum(losses) / weight`` over the step's rows, the same whatever the processes,
    the accumulation steps and `max_batch_tokens`. A subclass says what the losses are (`losses`)
    and what they are averaged over (`weight`: prompts, or response tokens).
    """

    args: RankingConfig
    model: Any
    adds_to: ClassVar[tuple[str, ...]] = ("_logged",)
    """Attributes that `losses` adds up what is logged in; put back where a step is repeated."""
    reduced_to: int | None = None
    """`max_batch_tokens` where memory made it smaller than it was given."""

    @abstractmethod
    def losses(self, model: nn.Module, rows: Sequence[Any]) -> Tensor:
        """[k] losses of the rows, which are summed; one per row, or fewer.

        Without rows: zeros whose computation takes part in the model's collectives.
        """

    @abstractmethod
    def weight(self, rows: Sequence[Any]) -> int:
        """What a step's sum of losses is divided by is the sum of this over its rows."""

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's; what a sharded model returns stays in float32."""
        super().create_accelerator_and_postprocess()
        keep_float32(self.accelerator)

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
            seed=None if args.train_sampling_strategy == "sequential" else seed,
            drop_last=args.dataloader_drop_last,
            clusters=self._clusters() if args.train_sampling_strategy == "group_by_cluster" else (),
        )

    def _clusters(self) -> list[str]:
        rows: Any = self.train_dataset
        return [getattr(row, "cluster", None) or row.prompt_id for row in rows]

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
        before = BeforeStep(self)
        syncs = self.accelerator.sync_gradients
        while (parts := self._in_parts(model, inputs, scale, options, syncs)) is None:
            before.restore()
            if self.accelerator.num_processes > 1:
                # DDP still expects the gradients of the pass that was dropped.
                self.accelerator.gradient_state._set_sync_gradients(syncs)
                self.accelerator.backward(self.losses(model, []).sum() * 0.0)
                before.restore()
            self.reduced_to = smaller_budget(self, inputs.parts, inputs.groups)
            self.args.max_batch_tokens = self.reduced_to
            self._split_anew(inputs)
        self._stop_unless_finite(parts)
        return torch.cat([losses for _, losses in parts]).sum().float() * scale

    @property
    def memory_figures(self) -> dict[str, int]:
        """What a run records: the budget of tokens, where memory made it a smaller one."""
        return {} if self.reduced_to is None else {"max_batch_tokens": self.reduced_to}

    def _in_parts(
        self,
        model: nn.Module,
        inputs: RankedBatch,
        scale: Any,
        options: dict[str, Any],
        syncs: bool,
    ) -> list[tuple[list[Any], Tensor]] | None:
        """Forward and backward, part by part: the rows of each and their losses.

        None: a process ran out of memory, before gradients are exchanged, and all know of it.
        """
        parts: list[tuple[list[Any], Tensor]] = []
        *first, last = inputs.parts

        def forward(part: list[int]) -> Tensor:
            rows = [inputs.groups[index] for index in part]
            losses = self.losses(model, rows)
            parts.append((rows, losses.detach()))
            return losses.sum() * scale

        if first:
            self.accelerator.gradient_state._set_sync_gradients(False)
            with Watch() as watch, self.accelerator.no_sync(model):
                for part in first:
                    self.accelerator.backward(forward(part), **options)
            if self._repeats(watch.ran_out):
                return None
        self.accelerator.gradient_state._set_sync_gradients(syncs)
        loss = torch.empty(0)
        with Watch() as watch:
            loss = forward(last)
        if self._repeats(watch.ran_out):
            return None
        with Watch() as watch:
            self.accelerator.backward(loss, **options)
        if watch.ran_out and self.accelerator.num_processes > 1:
            refuse(self)  # the others are exchanging gradients
        return None if watch.ran_out and self._repeats(True) else parts

    def _repeats(self, ran_out: bool) -> bool:
        """Whether the step is to be repeated. UserError: it ran out of memory, and cannot be."""
        kind = self.accelerator.distributed_type
        can = self.args.gradient_accumulation_steps == 1 and kind not in IN_STEP
        if ran_out and not can:
            refuse(self)
        return can and anyone(self, ran_out)

    def _split_anew(self, inputs: RankedBatch) -> None:
        """Splits a step by the budget that there is now, into equally many parts everywhere."""
        tokens = [row.tokens for row in inputs.groups]
        parts = micro_batches(tokens, self.args.max_batch_tokens, self.layout)
        mine = torch.tensor([len(parts)], device=self.args.device)
        everyone: Any = self.accelerator.gather(mine)
        inputs.parts = equally_many(parts, max(int(everyone.max()), 1))

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
        """The weight of a step, over all processes; and every batch's split into forward passes."""
        for batch in batch_samples:
            tokens = [row.tokens for row in batch.groups]
            batch.parts = micro_batches(tokens, self.args.max_batch_tokens, self.layout)
        rows = [row for batch in batch_samples for row in batch.groups]
        self._step_prompts = [row.prompt_id for row in rows]
        mine = [self.weight(rows), *(len(batch.parts) for batch in batch_samples)]
        everyone: Any = self.accelerator.gather(torch.tensor([mine], device=device))
        for batch, passes in zip(batch_samples, everyone[:, 1:].amax(dim=0).tolist(), strict=True):
            # Even without prompts at all one is needed: gradients are exchanged in the step's last.
            batch.parts = equally_many(batch.parts, max(passes, 1))
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


class Row(Protocol):
    """What a step is made of: tokens, and a name by which an error finds them."""

    @property
    def prompt_id(self) -> str: ...

    @property
    def tokens(self) -> TokenGroup: ...


@dataclass
class RankedBatch:
    """The share of one process in a step (or in one of its accumulation steps); it may be empty."""

    groups: list[Any]
    """`Row`s: the `RankedGroup`s of a ranking."""
    parts: list[list[int]] = field(default_factory=list)
    """Indices into `groups`, a list per forward pass; as many on every process, maybe empty."""

    def tokens(self, layout: str) -> int:
        """Tokens that the model computes for it."""
        return sum(token_count(group.tokens, layout) for group in self.groups)


class StepBatches(Sampler[list[int]]):
    """Deals every step's prompts to the processes and their accumulation steps, evenly.

    The steps are the same whatever the number of processes, and every prompt is in one of them: in
    the last step, or with more processes than prompts, some process gets fewer prompts or none,
    rather than repeated ones. So a mean over a step's prompts has no duplicates in it.

    Args:
        prompts: Number of prompts in the data set.
        per_step: Prompts of one step, over all processes.
        processes: Number of processes.
        process: Which of them this one is.
        accumulation: Batches per process and step.
        seed: Of the order, which differs from epoch to epoch; None keeps the order of the data.
        drop_last: Leave out a last step with fewer prompts.
        clusters: Of every prompt: those of one cluster come one after the other, in one step where
            they fit. Empty: none.
    """

    def __init__(
        self,
        prompts: int,
        per_step: int,
        *,
        processes: int = 1,
        process: int = 0,
        accumulation: int = 1,
        seed: int | None = None,
        drop_last: bool = False,
        clusters: Sequence[str] = (),
    ) -> None:
        self._prompts, self._per_step, self._clusters = prompts, per_step, clusters
        self._processes, self._process, self._accumulation = processes, process, accumulation
        self._seed, self._epoch = seed, 0
        self._steps = prompts // per_step if drop_last else -(-prompts // per_step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of that epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._steps * self._accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self._prompts))
        if self._seed is not None:
            generator = torch.Generator().manual_seed(self._seed + self._epoch)
            order = torch.randperm(self._prompts, generator=generator).tolist()
        if self._clusters:
            order = self._together(order)
        shares = self._processes * self._accumulation
        for start in range(0, self._steps * self._per_step, self._per_step):
            step = order[start : start + self._per_step]
            for first in range(self._process, shares, self._processes):
                yield step[first::shares]

    def _together(self, order: Sequence[int]) -> list[int]:
        """The order with the prompts of a cluster at the place of its first.

        Where the next cluster would be cut by a step's end, one behind it that fits comes first.
        """
        members: dict[str, list[int]] = {}
        for prompt in order:
            members.setdefault(self._clusters[prompt], []).append(prompt)
        left, together = deque(members.values()), list[int]()
        while left:
            room = self._per_step - len(together) % self._per_step
            near = islice(left, 4 * self._per_step)
            fitting = next((cluster for cluster in near if len(cluster) <= room), left[0])
            left.remove(fitting)
            together += fitting
        return together


def step_loader(
    rows: Sequence[Row], per_step: int, args: TrainingArguments, **options: Any
) -> DataLoader[Any]:
    """A loader of this process's `RankedBatch`es; `options` are those of `StepBatches`."""
    batches = StepBatches(
        len(rows), per_step, processes=args.world_size, process=args.process_index, **options
    )
    loader = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=RankedBatch,
        num_workers=args.dataloader_num_workers,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
    # The batches are this process's share already; accelerate's own split would repeat prompts.
    return prepare_data_loader(loader, num_processes=1, process_index=0)


class Averages:
    """Means over prompts, of all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._prompts = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Values [B] of B prompts; the same names every time."""
        for name, value in values.items():
            total = value.detach().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._prompts += next((len(value) for value in values.values()), 0)

    def collect(self) -> dict[str, float]:
        """The means since the last call. Every process must call it, even without prompts."""
        mine = ({name: float(total) for name, total in self._sums.items()}, self._prompts)
        shares: list[tuple[dict[str, float], int]] = gather_object([mine])
        self.__init__()
        prompts = sum(count for _, count in shares)
        names = {name: None for sums, _ in shares for name in sums}
        return {name: sum(sums.get(name, 0.0) for sums, _ in shares) / prompts for name in names}
