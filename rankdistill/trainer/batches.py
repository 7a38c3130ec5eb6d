"""What a step is made of: its rows, dealt to the processes and their accumulation steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankdistill.forward import TokenGroup, token_count


class TrainingRow(Protocol):
    """What a step is made of: tokens, and a name by which an error finds them."""

    @property
    def prompt_id(self) -> str: ...

    @property
    def tokens(self) -> TokenGroup: ...


@dataclass
class RankedBatch:
    """The share of one process in a step (or in one of its accumulation steps); it may be empty."""

    groups: list[Any]
    """`TrainingRow`s: the `RankedGroup`s of a ranking."""
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


class EpochOrder(TrainerCallback):
    """Tells `StepBatches` the epoch in whose middle a training goes on.

    transformers 5.10 tells it to the loader that skips what is done, which keeps it to itself.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        batches = kwargs["train_dataloader"].batch_sampler
        if isinstance(batches, StepBatches):
            batches.set_epoch(int(state.epoch or 0))


def step_loader(
    rows: Sequence[TrainingRow], per_step: int, args: TrainingArguments, **options: Any
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
