"""What every warm-up against the teacher's distributions shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.models import Model, tokenizer_difference
from rankdistill.objectives.divergences import divergence_named
from rankdistill.rows import Group
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.modes import enable_gradient_checkpointing
from rankdistill.trainer.output import save_trained
from rankdistill.trainer.stopping import attended
from rankdistill.warmup.matching import MODULE
from rankdistill.warmup.rows import TokenRow, figures, token_rows
from rankdistill.warmup.schema import DistillationOptions
from rankdistill.warmup.teachers import Teacher, TeacherModel
from rankdistill.warmup.trainer import DistillationTrainer
from rankdistill.warmup.warmup import Training, Warmup, training_arguments


@dataclass(frozen=True)
class Supervision:
    """The teacher, and the rows that the student is held against it on."""

    source: TeacherModel
    student: Model
    tokenizer: PreTrainedTokenizerBase
    """The student's."""
    groups: Sequence[Group]
    """To learn from, then to measure on; in the student's tokens."""
    rows: Sequence[TokenRow]
    """Of the groups."""


@dataclass(frozen=True, kw_only=True)
class Distillation(DistillationOptions, Warmup):
    """A student on given responses, token by token against the teacher's distributions.

    The loss is a mean over the response tokens of a step, over the ids that both models have.
    """

    distils: ClassVar[bool] = True
    needs_same_tokenizer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        divergence_named(self.divergence)

    @property
    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """Of the divergence and of the cross-entropy with the response."""

    @abstractmethod
    def teaches(self, supervision: Supervision, folder: Path | None) -> Callable[[Any], Teacher]:
        """Gets the teacher ready before the student is loaded.

        Args:
            supervision: Its rows are numbered by their `index`.
            folder: What `store` left of the teacher.

        Returns:
            The teacher for a student that is not yet wrapped.
        """

    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """See `Warmup`.

        Raises:
            UserError: Teacher and student have different tokenizers; no response; a loss that is no
                number (the message names the prompts and the last good checkpoint).
        """
        supervision = self.supervision(
            TeacherModel(teacher, how.layout), student, groups, how.validation
        )
        rows, measured = _parts(supervision, groups)
        arguments = training_arguments(
            RankingConfig,
            self,
            how,
            student.loading.precision,
            measured=bool(measured),
            layout=how.layout,
            max_batch_tokens=self.max_batch_tokens,
            prompts_per_step=self.responses_per_step,
        )
        for_student = self.teaches(supervision, how.cache)
        load = partial(student.trainable, how.lora, how.seed)
        model = load()
        enable_gradient_checkpointing(model, self.gradient_checkpointing)
        told = for_student(model)
        trainer = DistillationTrainer(
            model,
            arguments,
            rows,
            told,
            self.weights,
            validation=measured,
            processing_class=supervision.tokenizer,
        )
        with attended(trainer):
            result = trainer.train(resume_from_checkpoint=True)
        model._modules.pop(MODULE, None)  # of use while training only
        save_trained(trainer, supervision.tokenizer, out, load)
        return {**figures(trainer, result, rows), **told.figures, **trainer.memory_figures}

    def supervision(
        self,
        source: TeacherModel,
        student: Model,
        groups: Sequence[Group],
        validation: Sequence[Group],
    ) -> Supervision:
        """What the student learns and is measured on.

        Raises:
            UserError: Teacher and student have different tokenizers; no response.
        """
        tokenizer = student.tokenizer()
        if self.needs_same_tokenizer:
            require_one_tokenizer(tokenizer, source.model)
        everything = [*groups, *validation]
        return Supervision(
            source, student, tokenizer, everything, token_rows(everything, tokenizer)
        )


def _parts(
    supervision: Supervision, groups: Sequence[Group]
) -> tuple[Sequence[TokenRow], Sequence[TokenRow]]:
    """The rows to learn from, which are those of `groups`, and those to measure on."""
    count = sum(bool(response["token_ids"]) for group in groups for response in group["responses"])
    if count == 0:
        token_rows([], supervision.tokenizer)  # says that there is nothing to learn from
    return supervision.rows[:count], supervision.rows[count:]


def require_one_tokenizer(student: PreTrainedTokenizerBase, teacher: Model) -> None:
    """UserError where the teacher's token ids mean other tokens than the student's."""
    difference = tokenizer_difference(student, teacher.tokenizer())
    if difference is not None:
        raise UserError(other_tokenizer(f"the teacher '{teacher.path}'", difference))


def other_tokenizer(teacher: str, difference: str) -> str:
    """What is said where logits of two tokenizers would have to be compared."""
    return (
        "logit distillation compares distributions over one vocabulary, but the tokenizers of the "
        f"student and of {teacher} differ ({difference}): use warmup=sequence, which needs the "
        "teacher's text only, or warmup=cross_tokenizer, which aligns the two."
    )
