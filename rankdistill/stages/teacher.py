"""The teacher stage: its outputs on the responses, written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.models import Rows
from rankdistill.stages.run import Model, Run
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

    def store(folder: Path) -> Mapping[str, Any]:
        found = warmup.store(student, teacher, groups.rows, folder, how, run.sampler)
        run.close_sampler()
        return found

    what = f"its outputs on {len(groups)} prompts' responses, once"
    output = run.stage("teacher", what, identity, lambda partial: store(partial.path / "outputs"))
    if is_main_process():
        store(output.path / "outputs")  # a shard that was damaged since is made again
    return output.path / "outputs"
