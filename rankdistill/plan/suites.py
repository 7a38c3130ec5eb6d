"""What evaluation suites take: their items, read by every model, and answered where they ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rankdistill.bench.flops import sequences
from rankdistill.plan.memory import engine_memory
from rankdistill.plan.planner import Planner, on_gpu, precise
from rankdistill.plan.shapes import Shape, known_suites
from rankdistill.plan.stage import PlannedStage, cost, decoding
from rankdistill.stages.settings import Settings


@dataclass(frozen=True)
class _Items:
    """Of a suite, as lm-eval asks by itself."""

    items: int
    read: int
    """Tokens of an item."""
    written: int = 0
    """Mean tokens of an answer; 0: none is asked for."""


def suites(planner: Planner) -> Iterator[PlannedStage]:
    """A stage for the students and one for the teacher of every suite whose items are known."""
    settings = planner.settings
    for name, suite in settings.suites.items():
        if (known := known_suites().get(name)) is None:
            continue
        for whose, shape, options, models in (
            ("student", planner.student, settings.student, students(settings)),
            ("teacher", planner.teacher, settings.teacher, int(_is_here(settings))),
        ):
            if models:
                several = f" by {models} {whose}s" if models > 1 else f" by the {whose}"
                yield _measured(planner, suite, _Items(**known), several, shape, options, models)


def unplanned(settings: Settings) -> list[str]:
    """Suites whose items are a file's, or whose answers a judge elsewhere reads."""
    return [name for name in settings.suites if name not in known_suites()]


def students(settings: Settings) -> int:
    """Models other than the teacher that a suite measures; equal ones are measured once."""
    student, trains = settings.student, bool(settings.rounds or settings.warmup.lessons)
    starts_elsewhere = student.path is not None or student.keep_layers is not None
    between = bool(settings.rounds and settings.warmup.lessons)
    base = settings.base not in (None, student.path, settings.teacher.path)
    return starts_elsewhere + between + trains + base


def _is_here(settings: Settings) -> bool:
    return settings.sample.endpoint.model is None


def _measured(
    planner: Planner,
    suite: Any,
    known: _Items,
    by: str,
    shape: Shape,
    options: Any,
    models: int,
) -> PlannedStage:
    items = min(known.items, suite.limit or known.items)
    asked = items * models
    longest = min(known.written, suite.max_response_tokens or known.written)
    stage = planner.reading(
        "evaluate", f"{suite.name}: {items:,} items{by}", shape, options,
        sequences(asked, known.read, 0), max_batch_tokens=suite.batch_size * known.read,
    )  # fmt: skip
    starts = (models - 1) * planner.hardware.start_seconds
    if not longest:
        return replace(stage, seconds=stage.seconds + starts)
    hardware, vllm = planner.hardware, planner.settings.sample.vllm
    engine = suite.backend == "vllm"
    own = options.precision if on_gpu(hardware) else "float32"
    precision = precise(vllm.dtype if engine and on_gpu(hardware) else own)
    tokens, at_once = asked * longest, min(suite.batch_size, asked)
    context = known.read + longest / 2
    writing = decoding(shape, hardware, precision, tokens, at_once, context, 1, 1)
    one = cost(shape)
    held = engine_memory(shape, precision, at_once, known.read + longest, 1)
    return replace(
        stage,
        memory=planner.done(held),
        tokens=stage.tokens + tokens,
        flops=stage.flops + tokens * (one.token + one.row + one.pair * context),
        seconds=stage.seconds + writing + starts + engine * models * hardware.engine_seconds,
        disk=tokens * 10 + asked * 200,
    )
