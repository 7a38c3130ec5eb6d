"""Supervised fine-tuning on given responses, with TRL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rankdistill.errors import UserError, suggest
from rankdistill.models import Model
from rankdistill.records import Group
from rankdistill.train.checkpoints import last_checkpoint
from rankdistill.train.gradient_checkpointing import enable_gradient_checkpointing
from rankdistill.train.output import save_trained
from rankdistill.train.progress import show_progress
from rankdistill.warmup.base import Training
from rankdistill.warmup.conversations import Conversations
from rankdistill.warmup.lessons import KEEP, Lessons
from rankdistill.warmup.options import (
    Optimisation,
    TokenRow,
    figures,
    require,
    token_rows,
    training_arguments,
)

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class SFTWarmup(Optimisation):
    """Cross-entropy with responses: response tokens only, EOS included where it stood.

    With several responses of the teacher to a prompt it is sequence-level distillation (Kim and
    Rush 2016, arXiv:1606.07947); with the best of them by score, rejection-sampling fine-tuning.

    The rows reach TRL's SFTTrainer as token ids with labels: nothing is rendered, re-tokenised,
    cut, packed or given another EOS. The loss is the mean over the response tokens of a step,
    whatever its micro-batches, processes and accumulation: the rows are filled up to whole steps
    with rows that have nothing to learn, or accelerate would repeat some for the last process.

    Args:
        responses_per_prompt: Responses that the teacher writes to a prompt.
        keep: `all`, or the `best` of them by the run's scorer.
        minimum_score: Responses that score less are not learned; a verifier gives 1 where it
            agrees. None: all are good enough.
        rationale: Also learn how the teacher reasons, between `<think>` and `</think>`; needs a
            `minimum_score`. Scorers see the answer alone either way.
        request: What is added to a prompt for the teacher alone, for example to have it reason.
        conversations: A file or a data set of the hub, whose conversations are learned in place of
            responses to the run's prompts: every turn of the assistant. None: there is none.
        max_conversation_tokens: They are cut after so many tokens.
        train_conversations: Most of them to learn; None: all; 0: none, the student stays as it is.
        validation_conversations: How many of them are measured on instead.
    """

    responses_per_prompt: int = 1
    keep: str = "all"
    minimum_score: float | None = None
    rationale: bool = False
    request: str | None = None
    conversations: str | None = None
    max_conversation_tokens: int = 2048
    train_conversations: int | None = None
    validation_conversations: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require("responses_per_prompt", self.responses_per_prompt, self.responses_per_prompt >= 1,
                "at least 1")  # fmt: skip
        for key, least in (
            ("max_conversation_tokens", 1),
            ("train_conversations", 0),
            ("validation_conversations", 0),
        ):
            value = getattr(self, key)
            require(key, value, value is None or value >= least, f"at least {least}")
        if self.keep not in KEEP:
            raise UserError(f"warmup.keep '{self.keep}' is unknown: {suggest(self.keep, KEEP)}")
        if self.rationale and self.minimum_score is None:
            raise UserError(
                "warmup.rationale learns a chain of thought only where a verifier agrees: choose "
                "one as score, and set warmup.minimum_score=1."
            )

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

    @property
    def lessons(self) -> Lessons | None:
        if self.conversations is not None:
            return Lessons(source="conversations") if self.train_conversations != 0 else None
        return Lessons(
            source=self.learn_from,
            responses_per_prompt=self.responses_per_prompt,
            keep=self.keep,
            minimum_score=self.minimum_score,
            thoughts=self.rationale,
            request=self.request,
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {"warmup": "sft", "code": 2, **self.optimisation}

    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """See `Warmup`. The teacher itself is not loaded."""
        tokenizer = student.tokenizer()
        rows = token_rows(groups, tokenizer)
        measured = token_rows(how.validation, tokenizer) if how.validation else []
        arguments = training_arguments(
            SFTConfig,
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
        show_progress(trainer)
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
