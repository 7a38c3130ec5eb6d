"""The teacher stage: its outputs on the responses, written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.rows import Group
from rankdistill.stages.run import Model, Run
from rankdistill.warmup.teachers import table_size
from rankdistill.warmup.warmup import Training


@dataclass(frozen=True)
class Rows:
    """What one training is made of."""

    groups: Sequence[Group]
    validation: Sequence[Group]
    key: Any


def stored_outputs(
    run: Run, student: Model, teacher: Model, rows: Rows, how: Training
) -> Path | None:
    """Where the teacher's outputs are on disk; None where it runs along.

    They are an output of their own, so that warm-ups which differ in other things share them.
    """
    warmup = run.settings.warmup
    what = warmup.stored
    if what is None:
        return None
    identity = {
        "code": 2,
        "teacher": teacher.identity,
        "responses": rows.key,
        "outputs": what,
        "tables": sorted({table_size(teacher), table_size(student)}),
        "layout": how.layout,
    }

    def store(folder: Path) -> Mapping[str, Any]:
        found = warmup.store(student, teacher, rows.groups, folder, how, run.sampler)
        run.close_sampler()
        return found

    what = f"its outputs on {len(rows.groups)} prompts' responses, once"
    output = run.stage("teacher", what, identity, lambda partial: store(partial.path / "outputs"))
    if is_main_process():
        store(output.path / "outputs")  # a shard that was damaged since is made again
    return output.path / "outputs"
