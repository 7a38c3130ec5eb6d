"""The student as a training begins with it."""

from __future__ import annotations

from typing import Any

from rankdistill.models import load_trainable
from rankdistill.run import Model, Run


def load_policy(run: Run, student: Model) -> Any:
    """The student, with new adapters where it is to have some: then its reference is without."""
    settings = run.settings.student
    return load_trainable(
        student.path,
        precision=settings.precision.name,
        lora=run.lora,
        seed=run.settings.seed,
        attn_implementation=settings.attn_implementation,
        trust_remote_code=settings.trust_remote_code,
    )
