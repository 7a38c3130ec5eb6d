"""Warm-ups whose teacher runs along, or left its outputs on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.models import Model, device, place
from rankdistill.rows import Group
from rankdistill.sample import Sampler
from rankdistill.warmup.distillation import Distillation, Supervision
from rankdistill.warmup.head import Recorder
from rankdistill.warmup.schema import StoredOptions
from rankdistill.warmup.teacher_cache import TeacherCache
from rankdistill.warmup.teachers import (
    CachedTeacher,
    Divergence,
    LiveTeacher,
    Teacher,
    TeacherModel,
    from_vllm,
)
from rankdistill.warmup.warmup import Training


@dataclass(frozen=True, kw_only=True)
class StoredDistillation(StoredOptions, Distillation):
    """See `Distillation`."""

    def attach(self, student: Any, teacher: Any) -> Recorder | None:
        """Adds further losses to the student; the recorder of what they need of the teacher."""
        return None

    def store(
        self,
        student: Model,
        teacher: Model,
        groups: Sequence[Group],
        folder: Path,
        how: Training,
        sampler: Callable[[], Sampler],
    ) -> dict[str, float]:
        """See `Warmup`. Makes only what is missing or damaged; errors as for the warm-up."""
        source = TeacherModel(teacher, how.layout)
        supervision = self.supervision(source, student, groups, how.validation)
        cache = self._cache(supervision, folder)
        if (self.stored or {}).get("engine") == "vllm":
            cache.complete(lambda: from_vllm(sampler(), teacher, cache.spec))  # type: ignore[arg-type]
        else:
            cache.fill(lambda: place(source.load(), device()), self.max_batch_tokens)
        tokens = sum(len(row.response) for row in supervision.rows)
        return {"tokens": tokens, "bytes_per_token": cache.bytes_per_token}

    def teaches(self, supervision: Supervision, folder: Path | None) -> Callable[[Any], Teacher]:
        divergence = Divergence(self.divergence, self.temperature)
        if self.stored is None:

            def live(student: Any) -> Teacher:
                model = supervision.source.load()
                return LiveTeacher(model, divergence, self.attach(student, model))

            return live
        assert folder is not None  # what `store` filled
        cache = self._cache(supervision, folder)

        def cached(student: Any) -> Teacher:
            exact = self.teacher_outputs == "hidden"
            layer = supervision.source.output_layer() if exact else None
            self.attach(student, layer)
            return CachedTeacher(cache, divergence, layer)

        return cached

    def _cache(self, supervision: Supervision, folder: Path) -> TeacherCache:
        """The teacher's outputs on disk, whatever engine made them; complete or not."""
        assert self.stored is not None
        kept = {name: value for name, value in self.stored.items() if name != "engine"}
        return supervision.source.cache(folder, supervision.rows, supervision.student, **kept)
