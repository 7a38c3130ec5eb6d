"""No warm-up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rankdistill.models import Model
from rankdistill.rows import Group
from rankdistill.store.files import link
from rankdistill.warmup.schema import NoWarmupOptions
from rankdistill.warmup.warmup import Training, Warmup


@dataclass(frozen=True)
class NoWarmup(NoWarmupOptions, Warmup):
    """The student as it is."""

    lessons: ClassVar[None] = None
    identity: ClassVar[dict[str, Any]] = {"warmup": "none"}

    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """`out` becomes a copy of the student's folder, by hard links where that is possible."""
        shutil.copytree(student.path, out, copy_function=lambda a, b: link(Path(a), Path(b)))
        return {}
