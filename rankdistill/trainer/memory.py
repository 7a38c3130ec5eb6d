"""A step that runs out of memory is repeated with a smaller budget of tokens.

The split of a step into forward passes changes no gradient, so what was computed is dropped, the
random state is put back, and the step is repeated in smaller parts: exact but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import should_reduce_batch_size

from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.forward import token_count
from rankdistill.models.device import release
from rankdistill.trainer.checkpoints import last_checkpoint

IN_STEP = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Launches whose processes wait for each other in every forward pass: none can stop alone."""


class Watch:
    """A context that ends where memory runs out inside, and tells whether it did.

    The error is dropped, and with its traceback the activations that it holds.
    """

    ran_out = False

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
    budget = max(1, min(trainer.args.max_batch_tokens, tokens) // 2)
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
    found = last_checkpoint(trainer.args.output_dir)
    return str(found or "the start, since there is no checkpoint")
