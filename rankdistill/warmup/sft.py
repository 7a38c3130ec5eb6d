"""Supervised fine-tuning on given responses, with TRL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer import sft_trainer
from trl.trainer.sft_config import SFTConfig

from rankdistill.errors import UserError
from rankdistill.models import Model
from rankdistill.rows import Group
from rankdistill.trainer.arguments import CommonArguments
from rankdistill.trainer.checkpoints import last_checkpoint
from rankdistill.trainer.modes import KeepsFloat32, enable_gradient_checkpointing
from rankdistill.trainer.output import save_trained
from rankdistill.trainer.stopping import attended
from rankdistill.warmup.conversations import Conversations
from rankdistill.warmup.rows import TokenRow, figures, token_rows
from rankdistill.warmup.schema import SFTOptions
from rankdistill.warmup.warmup import Training, Warmup, training_arguments

IGNORED = -100


class _SFTArguments(CommonArguments, SFTConfig):
    """See both."""


class SFTTrainer(KeepsFloat32, sft_trainer.SFTTrainer):
    """TRL's."""


@dataclass(frozen=True, kw_only=True)
class SFTWarmup(SFTOptions, Warmup):
    """Cross-entropy with responses: response tokens only, EOS included where it stood.

    With several responses of the teacher to a prompt it is sequence-level distillation (Kim and
    Rush 2016, arXiv:1606.07947); with the best of them by score, rejection-sampling fine-tuning.

    The rows reach TRL's SFTTrainer as token ids with labels: nothing is rendered, re-tokenised,
    cut, packed or given another EOS. The loss is the mean over the response tokens of a step,
    whatever its micro-batches, processes and accumulation: the rows are filled up to whole steps
    with rows that have nothing to learn, or accelerate would repeat some for the last process.
    """

    @property
    def needs_verifier(self) -> bool:
        """A chain of thought is learned where its answer is right."""
        return self.rationale

    @property
    def own_conversations(self) -> Conversations | None:
        """What is learned in place of responses to the run's prompts."""
        if self.conversations is None:
            return None
        return Conversations(
            self.conversations,
            self.max_conversation_tokens,
            self.train_conversations,
            self.validation_conversations,
        )

    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """See `Warmup`. The teacher itself is not loaded."""
        tokenizer = student.tokenizer()
        rows = token_rows(groups, tokenizer)
        measured = token_rows(how.validation, tokenizer) if how.validation else []
        arguments = training_arguments(
            _SFTArguments,
            self,
            how,
            student.loading.precision,
            measured=bool(measured),
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            # A search for unused parameters in every backward pass finds none.
            ddp_find_unused_parameters=False,
        )
        size = self._micro_batch(rows, arguments.world_size)
        arguments.per_device_train_batch_size = size
        arguments.per_device_eval_batch_size = size
        arguments.gradient_accumulation_steps = self.responses_per_step // (
            size * arguments.world_size
        )
        load = partial(student.trainable, how.lora, how.seed)
        model = load()
        enable_gradient_checkpointing(model, self.gradient_checkpointing)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=_labelled(rows, -len(rows) % self.responses_per_step),
            eval_dataset=_labelled(measured) if measured else None,
            processing_class=tokenizer,
        )
        with attended(trainer):
            result = trainer.train(resume_from_checkpoint=last_checkpoint(how.checkpoints))
        save_trained(trainer, tokenizer, out, load)
        return figures(trainer, result, rows)

    def _micro_batch(self, rows: Sequence[TokenRow], processes: int) -> int:
        """The largest divisor of a process's share whose padded rows keep to `max_batch_tokens`.

        Raises:
            UserError: The responses of a step don't divide among the processes.
        """
        share, rest = divmod(self.responses_per_step, processes)
        if rest:
            raise UserError(
                f"warmup.responses_per_step is {self.responses_per_step}, which {processes} "
                f"processes cannot share equally under warmup=sft; give a multiple of {processes}."
            )
        fits = max(1, self.max_batch_tokens // max(row.length for row in rows))
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= fits)


def _labelled(rows: Sequence[TokenRow], more: int = 0) -> Dataset:
    """`input_ids` and `labels`, which are the ids of what is learned and ignored elsewhere.

    Args:
        more: Rows of two tokens to add, all of them ignored.
    """
    ids = [[*row.tokens.prompt, *row.response] for row in rows]
    labels = [
        [IGNORED] * len(row.tokens.prompt)
        + [i if learned else IGNORED for i, learned in zip(row.response, row.learned, strict=True)]
        for row in rows
    ]
    return Dataset.from_dict(
        {
            "input_ids": ids + [[rows[0].response[0]] * 2] * more,
            "labels": labels + [[IGNORED] * 2] * more,
        }
    )
