"""The warm-up stage: the student learns to talk before it is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.errors import UserError
from rankdistill.models import load_tokenizer, recoded, tokenizer_difference
from rankdistill.run import Model, Run, model_of
from rankdistill.store import Output, Partial


def warm_up(run: Run, student: Model, taught: Output | None) -> tuple[Model, list[dict[str, Any]]]:
    """The warmed-up student and the history of its training.

    Args:
        taught: The train prompts with responses of the teacher; None where the warm-up needs none.
    """
    warmup, teacher = run.settings.warmup, run.settings.teacher
    if taught is None:
        return student, []
    run.close_sampler()
    identity = {
        "code": 1,
        "student": student.identity,
        "teacher": run.teacher.identity,
        "responses": taught.key,
        "warmup": warmup.identity,
        "layout": run.settings.train.layout.name,
        "seed": run.settings.seed,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        figures = warmup(
            Path(student.path),
            run.teacher.path,
            recoded(taught.rows(), run.teacher.path, student.path),
            partial.path / "model",
            seed=run.settings.seed,
            report_to=run.settings.report_to,
            precision=run.settings.student.precision.name,
            checkpoints=partial.scratch / "checkpoints",
            teacher_precision=teacher.precision.name,
            attn_implementation=run.settings.student.attn_implementation,
            trust_remote_code=run.settings.student.trust_remote_code,
            layout=run.settings.train.layout.name,
        )
        history = figures.pop("history", [])
        if is_main_process():
            (partial.path / "history.json").write_text(json.dumps(history))
        return figures

    name = type(warmup).__name__
    what = f"{name} on {len(taught.rows())} prompts answered by the teacher"
    output = run.stage("warmup", what, identity, make, every_rank=True)
    return model_of(output), json.loads((output.path / "history.json").read_text())


def check_warmup(run: Run) -> None:
    """Refuse, before anything runs, logits of two tokenizers."""
    if not getattr(run.settings.warmup, "needs_same_tokenizer", False):
        return
    if run.start.path == run.teacher.path:
        return
    ours, theirs = load_tokenizer(run.start.path), load_tokenizer(run.teacher.path)
    difference = tokenizer_difference(ours, theirs)
    if difference is not None:
        raise UserError(
            f"{type(run.settings.warmup).__name__} compares logits, but student and teacher have "
            f"different tokenizers ({difference}): use warmup=sft, or models of one family."
        )
