"""The warm-up stage: the student learns to talk before it is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.models import recoded
from rankdistill.models.stage import fewer_layers
from rankdistill.records import Group
from rankdistill.run import Model, Run, model_of
from rankdistill.sample.stage import sample
from rankdistill.store import Output, Partial
from rankdistill.warmup.base import Training
from rankdistill.warmup.teachers import table_size
from rankdistill.warmup.teaching import Taught

SEEDS_APART = 1_000_003
"""Between the seeds of two rounds' samples: other runs' seeds are small numbers."""

History = list[dict[str, Any]]


def warm_up(
    run: Run, student: Model, prompts: Output, taught: Taught | None
) -> tuple[Model, History]:
    """The warmed-up student and the history of its training.

    Args:
        student: The pruned student; ignored where assistants make another.
        prompts: What layers are chosen on, where there are assistants.
        taught: What is learned; None where nothing is.
    """
    if taught is None:
        return student, []
    assistants = run.settings.warmup.assistants
    teacher, last = run.teacher, run.start
    for layers in assistants:
        rung = fewer_layers(run, last, layers, prompts)
        teacher = last = _warmed(run, rung, teacher, taught)[0]
    if assistants:
        keep = run.settings.student.keep_layers
        assert keep is not None  # `check_warmup` refuses a ladder without an end
        student = fewer_layers(run, last, keep, prompts)
    return _warmed(run, student, teacher, taught)


def _warmed(run: Run, student: Model, teacher: Model, taught: Taught) -> tuple[Model, History]:
    """One student taught by one teacher, in as many rounds as the warm-up has."""
    warmup = run.settings.warmup
    groups = recoded(taught.train, taught.writer, student)
    validation = recoded(taught.validation, taught.writer, student)
    if warmup.rounds is None:
        return _trained(run, student, teacher, Rows(groups, validation, taught.key))
    history: History = []
    for number in range(warmup.rounds):
        seed = run.settings.seed + SEEDS_APART * (number + 1)
        own = sample(run, student, taught.prompts, taught.prompts_key, "student", 1, seed=seed)
        mixed = warmup.mixed(own.rows(), groups, seed)  # type: ignore[arg-type]
        rows = Rows(mixed, validation, [own.key, taught.key])
        student, of_round = _trained(run, student, teacher, rows)
        done = max((row["step"] for row in history), default=0)
        history += [{**row, "step": row["step"] + done} for row in of_round]
    return student, history


@dataclass(frozen=True)
class Rows:
    """What one training is made of."""

    groups: Sequence[Group]
    validation: Sequence[Group]
    key: Any


def _trained(run: Run, student: Model, teacher: Model, rows: Rows) -> tuple[Model, History]:
    run.close_sampler()
    warmup, settings = run.settings.warmup, run.settings
    identity = {
        "code": 2,
        "student": student.identity,
        "teacher": teacher.identity,
        "responses": rows.key,
        "warmup": warmup.identity,
        "layout": settings.train.layout.name,
        "seed": settings.seed,
        **run.trained_in,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        how = Training(
            seed=settings.seed,
            checkpoints=partial.scratch / "checkpoints",
            validation=rows.validation,
            report_to=settings.report_to,
            lora=run.lora,
            use_liger_kernel=settings.student.use_liger_kernel,
            layout=settings.train.layout.name,
        )
        how = replace(how, cache=_stored_outputs(run, student, teacher, rows, how))
        figures = warmup(student, teacher, rows.groups, partial.path / "model", how)
        history = figures.pop("history", [])
        if is_main_process():
            (partial.path / "history.json").write_text(json.dumps(history))
        return figures

    what = f"{type(warmup).__name__} on {len(rows.groups)} prompts"
    if teacher != run.teacher:
        what += ", taught by an assistant"
    output = run.stage("warmup", what, identity, make, every_rank=True)
    return model_of(output, student.loading), json.loads((output.path / "history.json").read_text())


def _stored_outputs(
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
