"""What a warm-up is, and how it is optimised: its options, and what they are for a Trainer."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from rankdistill.models import LoRA, Model
from rankdistill.rows import Group
from rankdistill.sample.sampler import Sampler
from rankdistill.trainer.arguments import optimised
from rankdistill.trainer.checkpoints import last_checkpoint
from rankdistill.warmup.conversations import Conversations
from rankdistill.warmup.lessons import Lessons
from rankdistill.warmup.schema import Optimisation


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a warm-up trains, beside its own options."""

    seed: int
    """Of the data order, and of what is drawn anew, such as adapters."""
    checkpoints: Path
    """Folder of checkpoints; a killed warm-up continues from the last one."""
    validation: Sequence[Group] = ()
    """Prompts with responses that it is measured on while it trains."""
    report_to: Sequence[str] = ()
    """Trackers, as in transformers."""
    lora: LoRA | None = None
    """Adapters to train instead of all weights; the model that is written has them merged."""
    use_liger_kernel: bool = False
    """Whether Liger's kernels compute the student's layers."""
    layout: str = "shared"
    """Of the grouped forward."""
    cache: Path | None = None
    """Folder that `store` filled; None where nothing of the teacher is stored."""


class Warmup(ABC):
    """Prepares the student before it writes the responses that are ranked.

    Implementations are frozen dataclasses, named by `_target_` in `conf/warmup/`.
    """

    distils: bool = False
    """Whether the teacher's distributions are learned, beside the responses."""
    needs_same_tokenizer: bool = False
    """Whether the teacher's token ids have to be the student's."""
    needs_verifier: bool = False
    """Whether what is learned is chosen by whether it is right, which a verifier tells."""
    max_prompts: int | None = None
    """The first so many train prompts are answered and learned from; None: all."""
    own_conversations: Conversations | None = None
    """What is learned in place of responses to the run's prompts."""
    assistants: Sequence[int] = ()
    """Layers of the students in between, from many to few."""
    rounds: int | None = None
    """Times that the student answers and learns (see `mixed`); None: it learns given responses."""
    student_share: float = 1.0
    """Share of the prompts, in [0, 1], that the student answers itself in a round."""

    @property
    @abstractmethod
    def lessons(self) -> Lessons | None:
        """Which responses are learned; None: the student stays as it is."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the weights depend on besides the models, the rows and the seed; hashed."""

    @abstractmethod
    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """Write the warmed-up model and its tokenizer to the new folder `out`.

        Args:
            student: The model to start from. Where its `loading.precision` is bfloat16 or float16,
                its weights are trained in float32 (mixed precision), see `Model.trainable`.
            teacher: The model to learn from.
            groups: Prompts of the train split, each with responses to learn from.
            out: Folder to create.

        Returns:
            Figures for the run's record; `history` is the Trainer's log history, a list of rows.
        """

    def check(self, student: Model, teacher: Model, lora: LoRA | None) -> None:  # noqa: B027
        """Refuse at start-up what can be known there. UserError: it cannot work."""

    def mixed(self, own: Sequence[Group], others: Sequence[Group], seed: int) -> list[Group]:
        """What a round learns from.

        Args:
            own: The student's responses to all prompts.
            others: The given responses, of the prompts that have one.
            seed: Of the round.
        """
        return list(own)

    @property
    def stored(self) -> dict[str, Any] | None:
        """What of the teacher is kept on disk, for the key of its output; None: it runs along."""
        return None

    def store(
        self,
        student: Model,
        teacher: Model,
        groups: Sequence[Group],
        folder: Path,
        how: Training,
        sampler: Callable[[], Sampler],
    ) -> Mapping[str, float]:
        """Run the teacher once and leave in `folder` what `stored` names: later `Training.cache`.

        Called where `stored` is not None. What is complete there already stays.

        Args:
            sampler: Gives the run's sampler, for an engine that runs the teacher.

        Returns:
            Counts for the manifest.
        """
        raise NotImplementedError(f"{type(self).__name__} says `stored` and cannot `store`.")


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
        gradient_checkpointing=False,  # the model is told, see `enable_gradient_checkpointing`
        save_strategy="steps",
        eval_strategy="steps" if measured else "no",
        eval_steps=options.eval_steps,
        # What is measured before the first step; a run that continues has measured it.
        eval_on_start=measured and last_checkpoint(how.checkpoints) is None,
        optim="adamw_torch_fused",
        seed=how.seed,
        report_to=list(how.report_to) or "none",
        use_liger_kernel=how.use_liger_kernel,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and several else None,
        dataloader_pin_memory=not on_cpu,
        **optimised(options, precision),
        **more,
    )
