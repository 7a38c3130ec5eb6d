"""Distillation of what goes on inside the teacher, beside what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import LoRA, Model
from rankdistill.warmup.head import Recorder
from rankdistill.warmup.matching import attach
from rankdistill.warmup.schema import HiddenOptions
from rankdistill.warmup.stored import StoredDistillation


@dataclass(frozen=True, kw_only=True)
class HiddenWarmup(HiddenOptions, StoredDistillation):
    """``alpha T^2 D + beta CE + gamma (1 - cosine of states)`` on the teacher's responses.

    DistilBERT (Sanh et al. 2019, arXiv:1910.01108) with its published weights, on response tokens
    of a causal model; `layers=all` is DistillFlow's, with one projection per layer where the sizes
    differ, trained along and not kept.
    """

    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, self.beta

    def check(self, student: Model, teacher: Model, lora: LoRA | None) -> None:
        """See `Warmup`. UserError: projections between two sizes, beside adapters."""
        if lora is None:
            return
        ours, theirs = (m.config().get_text_config().hidden_size for m in (student, teacher))
        if ours != theirs:
            raise UserError(
                f"warmup=hidden would train projections between the student's {ours} and the "
                f"teacher's {theirs} dimensions, which a checkpoint of adapters cannot hold: set "
                "student.lora.r=null, or take warmup=logits."
            )

    def attach(self, student: Any, teacher: Any) -> Recorder:
        return attach(
            student,
            teacher,
            layers=self.layers,
            attention=self.attention,
            weight=self.gamma,
            relational=self.relational,
        )
