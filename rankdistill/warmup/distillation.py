"""What every warm-up against the teacher's distributions shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError, suggest
from rankdistill.models import load_model, load_tokenizer, save_model, tokenizer_difference
from rankdistill.records import Group
from rankdistill.train.config import RankingConfig
from rankdistill.train.progress import show_progress
from rankdistill.warmup.divergences import check_divergence
from rankdistill.warmup.matching import MODULE
from rankdistill.warmup.options import (
    Optimisation,
    TokenRow,
    figures,
    require,
    token_rows,
    training_arguments,
)
from rankdistill.warmup.recorder import Recorder
from rankdistill.warmup.teacher_cache import TeacherCache
from rankdistill.warmup.teachers import (
    CachedTeacher,
    Divergence,
    LiveTeacher,
    Teacher,
    TeacherModel,
    fill,
)
from rankdistill.warmup.trainer import DistillationTrainer


@dataclass(frozen=True, kw_only=True)
class Distillation(Optimisation, ABC):
    """A student on the teacher's responses, token by token against the teacher's distributions.

    The loss is a mean over the response tokens of a step, over the ids that both models have.

    Args:
        temperature: Of both distributions, > 0.
        divergence: A name of `rankdistill.warmup.divergences.DIVERGENCES`.
        teacher_outputs: `live` runs the teacher on every batch; `hidden` runs it once and reads its
            last hidden states from disk (see `teacher_cache.py`), which is exact.
    """

    temperature: float = 1.0
    divergence: str = "forward_kl"
    teacher_outputs: str = "live"

    needs_same_tokenizer: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("live", "hidden")

    def __post_init__(self) -> None:
        super().__post_init__()
        require("temperature", self.temperature, self.temperature > 0, "above 0")
        check_divergence(self.divergence)
        if self.teacher_outputs not in self.outputs:
            raise UserError(
                f"warmup.teacher_outputs '{self.teacher_outputs}' is unknown: "
                f"{suggest(self.teacher_outputs, self.outputs)}"
            )

    @property
    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """Of the divergence and of the cross-entropy with the response."""

    def attach(self, student: Any, teacher: Any) -> Recorder | None:
        """Adds further losses to the student; the recorder of what they need of the teacher."""
        return None

    @property
    def distillation(self) -> dict[str, Any]:
        """The options that change the weights, for `identity`."""
        own = {"temperature": self.temperature, "divergence": self.divergence}
        return {"code": 1, **own, **self.optimisation}

    @property
    def stored(self) -> dict[str, Any] | None:
        """What of the teacher is kept on disk, for the key of its output; None: it runs along."""
        return None if self.teacher_outputs == "live" else {"kind": self.teacher_outputs}

    def __call__(
        self,
        student: Path,
        teacher: str,
        groups: Sequence[Group],
        out: Path,
        *,
        seed: int,
        report_to: Sequence[str],
        precision: str,
        checkpoints: Path,
        teacher_precision: str = "float32",
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        layout: str = "shared",
        cache: Path | None = None,
    ) -> dict[str, Any]:
        """See `Warmup`.

        Args:
            cache: Folder of the teacher's stored outputs; made or completed where it isn't. None
                keeps them beside the checkpoints.

        Raises:
            UserError: Teacher and student have different tokenizers; no response; a cache of
                something else, or no space for it; a loss that is no number (the message names the
                prompts and the last good checkpoint).
        """
        source = TeacherModel(
            teacher, teacher_precision, attn_implementation, trust_remote_code, layout
        )
        tokenizer = load_tokenizer(str(student), trust_remote_code=trust_remote_code)
        require_one_tokenizer(tokenizer, source)
        rows = token_rows(groups, tokenizer)
        arguments = training_arguments(
            RankingConfig,
            self,
            checkpoints=checkpoints,
            seed=seed,
            report_to=report_to,
            precision=precision,
            layout=layout,
            max_batch_tokens=self.max_batch_tokens,
            prompts_per_step=self.responses_per_step,
        )
        stored = self._stored(
            source, student, rows, tokenizer, cache or checkpoints.parent / "teacher"
        )
        if stored is not None:
            fill(stored, source, self.max_batch_tokens, arguments.process_index)
        model = load_model(
            str(student),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        trainer = DistillationTrainer(
            model,
            arguments,
            rows,
            self._teacher(source, stored, model),
            self.weights,
            processing_class=tokenizer,
        )
        show_progress(trainer)
        result = trainer.train(resume_from_checkpoint=True)
        model._modules.pop(MODULE, None)  # of use while training only
        if trainer.is_world_process_zero():
            save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
        trainer.accelerator.wait_for_everyone()
        measured = {} if stored is None else {"cache_bytes_per_token": stored.bytes_per_token}
        return {**figures(trainer, result, rows), **measured}

    def store(
        self,
        student: Path,
        teacher: str,
        groups: Sequence[Group],
        folder: Path,
        *,
        teacher_precision: str = "float32",
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        layout: str = "shared",
    ) -> dict[str, float]:
        """Runs the teacher once and leaves its outputs in `folder`: the `cache` of later warm-ups.

        Arguments and errors as for a warm-up, with `teacher_outputs` top_k or hidden.
        """
        source = TeacherModel(
            teacher, teacher_precision, attn_implementation, trust_remote_code, layout
        )
        tokenizer = load_tokenizer(str(student), trust_remote_code=trust_remote_code)
        require_one_tokenizer(tokenizer, source)
        rows = token_rows(groups, tokenizer)
        stored = self._stored(source, student, rows, tokenizer, folder)
        assert stored is not None
        fill(stored, source, self.max_batch_tokens, process=0)
        tokens = sum(len(row.response) for row in rows)
        return {"tokens": tokens, "bytes_per_token": stored.bytes_per_token}

    def _teacher(self, source: TeacherModel, stored: TeacherCache | None, student: Any) -> Teacher:
        divergence = Divergence(self.divergence, self.temperature)
        if stored is None:
            model = source.load()
            return LiveTeacher(model, divergence, self.attach(student, model))
        layer = source.output_layer() if self.teacher_outputs == "hidden" else None
        self.attach(student, layer)
        return CachedTeacher(stored, divergence, layer)

    def _stored(
        self,
        source: TeacherModel,
        student: Path,
        rows: Sequence[TokenRow],
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
    ) -> TeacherCache | None:
        """The teacher's outputs on disk, complete or not; None where it runs along."""
        if self.stored is None:
            return None
        return source.cache(folder, rows, tokenizer, str(student), **self.stored)


def require_one_tokenizer(student: PreTrainedTokenizerBase, teacher: TeacherModel) -> None:
    """UserError where the teacher's token ids mean other tokens than the student's."""
    theirs = load_tokenizer(teacher.path, trust_remote_code=teacher.trust_remote_code)
    difference = tokenizer_difference(student, theirs)
    if difference is not None:
        raise UserError(
            "logit distillation compares distributions over one vocabulary, but the tokenizers of "
            f"the student and of the teacher '{teacher.path}' differ ({difference}): use "
            "warmup=sft, which needs the teacher's text only."
        )
