"""A warm-up by itself, on models in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import model_in

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
    """Its figures; the model is in `out`, checkpoints beside it unless said otherwise."""
    training = Training(seed=seed, checkpoints=checkpoints or out.parent / "checkpoints", **how)
    models = model_in(student, precision), model_in(teacher, teacher_precision)
    return warmup(*models, groups, out, training)
