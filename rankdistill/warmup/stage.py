"""The warm-up stage: the student learns to talk before it is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.models import recoded
from rankdistill.models.stage import fewer_layers
from rankdistill.records import Group
from rankdistill.run import Model, Run, model_of
from rankdistill.sample.stage import sample
from rankdistill.store import Output, Partial
from rankdistill.warmup.on_policy import OnPolicyWarmup
from rankdistill.warmup.teachers import TeacherModel, table_size
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
    assistants = getattr(run.settings.warmup, "assistants", ())
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
    groups = recoded(taught.train, taught.writer, student.path)
    validation = recoded(taught.validation, taught.writer, student.path)
    if not isinstance(warmup, OnPolicyWarmup):
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
    source = _source(run, teacher)

    def make(partial: Partial) -> Mapping[str, Any]:
        stored = _stored_outputs(run, student, teacher, source, rows)
        figures = warmup(
            Path(student.path),
            teacher.path,
            rows.groups,
            partial.path / "model",
            seed=settings.seed,
            report_to=settings.report_to,
            precision=settings.student.precision.name,
            checkpoints=partial.scratch / "checkpoints",
            validation=rows.validation,
            lora=run.lora,
            use_liger_kernel=settings.student.use_liger_kernel,
            teacher_precision=source.precision,
            teacher_quantization=source.quantization,
            attn_implementation=source.attn_implementation,
            trust_remote_code=source.trust_remote_code,
            layout=source.layout,
            **stored,
        )
        history = figures.pop("history", [])
        if is_main_process():
            (partial.path / "history.json").write_text(json.dumps(history))
        return figures

    what = f"{type(warmup).__name__} on {len(rows.groups)} prompts"
    if teacher != run.teacher:
        what += ", taught by an assistant"
    output = run.stage("warmup", what, identity, make, every_rank=True)
    return model_of(output), json.loads((output.path / "history.json").read_text())


def _source(run: Run, teacher: Model) -> TeacherModel:
    """How a teacher is loaded; an assistant as the students are."""
    settings = run.settings.teacher if teacher == run.teacher else run.settings.student
    quantization = run.settings.teacher.quantization if teacher == run.teacher else None
    return TeacherModel(
        teacher.path,
        settings.precision.name,
        run.settings.student.attn_implementation,
        run.settings.student.trust_remote_code,
        run.settings.train.layout.name,
        quantization and quantization.name,
    )


def _stored_outputs(
    run: Run, student: Model, teacher: Model, source: TeacherModel, rows: Rows
) -> dict[str, Any]:
    """Where the teacher's outputs are on disk, as an argument of the warm-up; {} without any.

    They are an output of their own, so that warm-ups which differ in other things share them.
    """
    warmup: Any = run.settings.warmup
    what = getattr(warmup, "stored", None)
    if what is None:
        return {}
    identity = {
        "code": 2,
        "teacher": teacher.identity,
        "responses": rows.key,
        "outputs": what,
        "tables": sorted({table_size(teacher.path), table_size(student.path)}),
        "layout": run.settings.train.layout.name,
    }

    def store(folder: Path) -> Mapping[str, Any]:
        found = warmup.store(
            Path(student.path), source, rows.groups, rows.validation, folder, run.sampler
        )
        run.close_sampler()
        return found

    what = f"its outputs on {len(rows.groups)} prompts' responses, once"
    output = run.stage("teacher", what, identity, lambda partial: store(partial.path / "outputs"))
    if is_main_process():
        store(output.path / "outputs")  # a shard that was damaged since is made again
    return {"cache": output.path / "outputs"}
