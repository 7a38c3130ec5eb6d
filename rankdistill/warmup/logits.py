"""Logit distillation: at every response token the student is pulled to the teacher's choices."""

from __future__ import annotations

from dataclasses import dataclass

from rankdistill.warmup.schema import LogitsOptions
from rankdistill.warmup.stored import StoredDistillation


@dataclass(frozen=True, kw_only=True)
class LogitsWarmup(LogitsOptions, StoredDistillation):
    """``alpha T^2 D(teacher, student) + (1 - alpha) CE`` on the teacher's responses.

    Hinton et al. 2015, arXiv:1503.02531. Differs from DistillFlow: prompt and padding are not
    distilled, the mean is over real tokens rather than a configured length, and a larger embedding
    table is cut, not filled with zero logits.
    """

    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, 1 - self.alpha
