"""Logit distillation: at every response token the student is pulled to the teacher's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.models import load_model, load_tokenizer, save_model, tokenizer_difference
from rankdistill.records import Group
from rankdistill.train.config import RankingConfig
from rankdistill.train.progress import ProgressBar
from rankdistill.warmup.divergences import check_divergence
from rankdistill.warmup.options import (
    Optimisation,
    figures,
    require,
    token_rows,
    training_arguments,
)
from rankdistill.warmup.trainer import DistillationTrainer, Divergence, LiveTeacher


@dataclass(frozen=True, kw_only=True)
class LogitsWarmup(Optimisation):
    """``alpha T^2 D(teacher, student) + (1 - alpha) CE`` on the teacher's responses.

    The mean over the response tokens of a step (Hinton et al. 2015, arXiv:1503.02531), over the ids
    that both models have. Differs from DistillFlow: prompt and padding are not distilled, the mean
    is over real tokens rather than a configured length, and a larger embedding table is cut, not
    filled with zero logits.

    Args:
        temperature: Of both distributions, > 0.
        alpha: Weight of the divergence, in [0, 1].
        divergence: A name of `rankdistill.warmup.divergences.DIVERGENCES`.
    """

    temperature: float = 1.0
    alpha: float = 1.0
    divergence: str = "forward_kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("temperature", self.temperature, self.temperature > 0, "above 0")
        require("alpha", self.alpha, 0 <= self.alpha <= 1, "in [0, 1]")
        check_divergence(self.divergence)

    @property
    def identity(self) -> dict[str, Any]:
        keys = ("temperature", "alpha", "divergence")
        own = {key: getattr(self, key) for key in keys}
        return {"warmup": "logits", "code": 1, **own, **self.optimisation}

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
    ) -> dict[str, Any]:
        """See `Warmup`.

        Raises:
            UserError: Teacher and student have different tokenizers; no response; a loss that is no
                number (the message names the prompts and the last good checkpoint).
        """
        tokenizer = load_tokenizer(str(student), trust_remote_code=trust_remote_code)
        require_one_tokenizer(tokenizer, teacher, trust_remote_code)
        rows = token_rows(groups, tokenizer)
        options: dict[str, Any] = {
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
        }
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
        trainer = DistillationTrainer(
            load_model(str(student), **options),
            arguments,
            rows,
            LiveTeacher(
                load_model(teacher, precision=teacher_precision, **options),
                Divergence(self.divergence, self.temperature),
                layout,
            ),
            self.alpha,
            processing_class=tokenizer,
            callbacks=[ProgressBar()],
        )
        result = trainer.train(resume_from_checkpoint=True)
        if trainer.is_world_process_zero():
            save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
        trainer.accelerator.wait_for_everyone()
        return figures(trainer, result, rows)


def require_one_tokenizer(
    student: PreTrainedTokenizerBase, teacher: str, trust_remote_code: bool
) -> None:
    """UserError where the teacher's token ids mean other tokens than the student's."""
    theirs = load_tokenizer(teacher, trust_remote_code=trust_remote_code)
    difference = tokenizer_difference(student, theirs)
    if difference is not None:
        raise UserError(
            f"warmup=logits compares distributions over one vocabulary, but the tokenizers of the "
            f"student and of the teacher '{teacher}' differ ({difference}): use warmup=sft, which "
            "needs the teacher's text only."
        )
