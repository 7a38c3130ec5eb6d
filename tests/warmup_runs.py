"""A warm-up by itself, on models in folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_models import model_in

from rankdistill.warmup.warmup import Training


def warm_up(
    warmup: Any,
    student: Path,
    teacher: Path | str,
    groups: Sequence[Any],
    out: Path,
    *,
    checkpoints: Path | None = None,
    precision: str = "float32",
    teacher_precision: str = "float32",
    seed: int = 0,
    **how: Any,
) -> dict[str, Any]:
    """Its figures; the model is in `out`; checkpoints and the teacher's outputs are beside it."""
    training = Training(seed=seed, checkpoints=checkpoints or out.parent / "checkpoints", **how)
    models = model_in(student, precision), model_in(teacher, teacher_precision)
    if warmup.stored:
        folder = out.parent / "outputs"
        warmup.store(*models, groups, folder, training, lambda: None)
        training = replace(training, cache=folder)
    return warmup(*models, groups, out, training)
