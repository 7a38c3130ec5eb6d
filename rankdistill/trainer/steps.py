"""The step that every training shares: its micro-batches, where it stops, what memory allows.

A step that runs out of memory is repeated with a smaller budget of tokens. The split of a step into
forward passes changes no gradient, so what was computed is dropped, the random state is put back,
and the step is repeated in smaller parts: exact but for rounding.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from accelerate.utils import DistributedType, gather_object
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bound_layout, micro_batches, token_count
from rankdistill.models.device import release
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.batches import EpochOrder, RankedBatch, step_loader
from rankdistill.trainer.checkpoints import last_checkpoint, not_finite, stop
from rankdistill.trainer.modes import KeepsFloat32

IN_STEP = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Launches whose processes wait for each other in every forward pass: none can stop alone."""
NOTHING = TokenGroup([0], [[0]])
"""What a process that has no rows left runs the model on, since the others wait for it."""


def equally_many(parts: list[list[int]], passes: int) -> list[list[int]]:
    """A process's forward passes, as indices, filled up with empty ones.

    Every process must run the model equally often, or one would wait for the others for ever.
    """
    return parts + [[] for _ in range(passes - len(parts))]


class StepTrainer(KeepsFloat32, Trainer, ABC):
    """transformers' Trainer on rows of tokens (`batches.TrainingRow`), with a model that is bound.

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(EpochOrder())

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
                self.accelerator.backward(self.losses(model, []).sum())
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
        inputs.parts = equally_many(parts, int(everyone.max()))

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
        everyone: Any = torch.tensor(
            [[self.weight(rows), *(len(batch.parts) for batch in batch_samples)]]
        )
        if self.accelerator.num_processes > 1:  # alone, a step need not wait for the last one
            everyone = self.accelerator.gather(everyone.to(device))
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
        bad = sum((~losses.isfinite()).sum() for _, losses in parts)
        # One transfer from the device, over all parts and processes.
        if int(self.accelerator.reduce(bad, reduction="sum")) > 0:  # type: ignore[arg-type]
            stop("loss", not_finite(parts), self)


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


class Watch:
    """A context that ends where memory runs out inside, and tells whether it did.

    The error is dropped, and with its traceback the activations that it holds.
    """

    ran_out: bool

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        out = isinstance(error, torch.OutOfMemoryError)
        self.ran_out = out or (isinstance(error, Exception) and should_reduce_batch_size(error))
        return self.ran_out


class BeforeStep:
    """What a step changes before its gradients are there.

    Args:
        trainer: A `StepTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._random = random_state(trainer.args.device)
        self._sums = {name: copy.deepcopy(getattr(trainer, name)) for name in trainer.adds_to}

    def restore(self) -> None:
        """Puts the random state and the logged sums back, and drops the gradients."""
        set_random_state(self._trainer.args.device, self._random)
        for name, value in self._sums.items():
            setattr(self._trainer, name, copy.deepcopy(value))
        self._trainer.model_wrapped.zero_grad(set_to_none=True)
        release()


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Of the CPU, and of the device where it is another one."""
    states = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_random_state(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    """Sets what `random_state` gave."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)


def anyone(trainer: Any, here: bool) -> bool:
    """Whether it is so in any process, such as being out of memory; every process must call it."""
    if trainer.accelerator.num_processes == 1:
        return here
    count = torch.tensor(int(here), device=trainer.args.device)
    return int(trainer.accelerator.reduce(count, reduction="sum")) > 0


def largest(trainer: Any, parts: Sequence[Sequence[int]], groups: Sequence[Any]) -> tuple[int, int]:
    """Tokens of the largest forward pass, and most rows of one, over all processes."""
    tokens = [sum(token_count(groups[i].tokens, trainer.layout) for i in part) for part in parts]
    mine = torch.tensor([max(tokens), max(map(len, parts))], device=trainer.args.device)
    everyone: Any = trainer.accelerator.gather(mine[None])
    most = everyone.amax(dim=0).tolist()
    return most[0], most[1]


def smaller_budget(trainer: Any, parts: Sequence[Sequence[int]], groups: Sequence[Any]) -> int:
    """Half of what a forward pass took, which is kept from here on; every process must call it.

    Raises:
        UserError: one group at a time is too much.
    """
    tokens, rows = largest(trainer, parts, groups)
    if rows < 2:
        step = trainer.state.global_step + 1
        raise UserError(
            f"Step {step} ran out of memory with one prompt and its responses at a time ({tokens} "
            "tokens at most): set gradient_checkpointing=true, take fewer responses (rank.select, "
            f"rank.top_k) or shorter ones, then continue from {_checkpoint(trainer)}."
        )
    budget = min(trainer.args.max_batch_tokens, tokens) // 2
    say(
        f"out of memory: the step is repeated with max_batch_tokens={budget} in place of "
        f"{trainer.args.max_batch_tokens}, which changes no gradient, and so are those after it"
    )
    return budget


def refuse(trainer: Any) -> NoReturn:
    """UserError where this process ran out of memory and cannot repeat the step."""
    budget = max(1, trainer.args.max_batch_tokens // 2)
    raise UserError(
        f"Step {trainer.state.global_step + 1} ran out of memory, and the processes of this launch "
        f"cannot repeat it together: run the same command with max_batch_tokens={budget} (of this "
        f"stage), which continues from {_checkpoint(trainer)}."
    )


def _checkpoint(trainer: Any) -> str:
    checkpoint = last_checkpoint(trainer.args.output_dir)
    return str(checkpoint or "the start, since there is no checkpoint")
