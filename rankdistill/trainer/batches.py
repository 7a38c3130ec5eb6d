"""Which prompts each process sees in each step, and the averages over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments

from rankdistill.forward import TokenGroup, token_count


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
    ) -> None:
        self._prompts, self._per_step = prompts, per_step
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
        shares = self._processes * self._accumulation
        for start in range(0, self._steps * self._per_step, self._per_step):
            step = order[start : start + self._per_step]
            for first in range(self._process, shares, self._processes):
                yield step[first::shares]


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
