"""The teacher stage: its outputs on the responses, written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.models import Rows
from rankdistill.stages.run import Model, Run
from rankdistill.store import Partial
from rankdistill.warmup.teachers import table_size
from rankdistill.warmup.warmup import Training


def stored_outputs(
    run: Run, student: Model, teacher: Model, groups: Rows, how: Training
) -> Path | None:
    """Where the teacher's outputs on some groups are on disk; None where it runs along.

    They are an output of their own, so that warm-ups which differ in other things share them.
    """
    warmup = run.settings.warmup
    what = warmup.stored
    if what is None:
        return None
    identity = {
        "code": 2,
        "teacher": teacher.identity,
        "responses": groups.key,
        "outputs": what,
        "tables": sorted({table_size(teacher), table_size(student)}),
        "layout": how.layout,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        folder = partial.path / "outputs"
        counts = warmup.store(student, teacher, groups.rows, folder, how, run.sampler)
        run.close_sampler()
        return counts

    what = f"its outputs on {len(groups)} prompts' responses, once"
    return run.stage("teacher", what, identity, make).path / "outputs"
