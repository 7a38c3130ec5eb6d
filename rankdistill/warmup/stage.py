"""The warm-up stage: the student learns to talk before it is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.errors import UserError
from rankdistill.models import load_tokenizer, recoded, tokenizer_difference
from rankdistill.models.load import load_config
from rankdistill.run import Model, Run, model_of
from rankdistill.store import Output, Partial
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.teachers import table_size


def warm_up(run: Run, student: Model, taught: Output | None) -> tuple[Model, list[dict[str, Any]]]:
    """The warmed-up student and the history of its training.

    Args:
        taught: The train prompts with responses of the teacher; None where the warm-up needs none.
    """
    warmup = run.settings.warmup
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
        **run.trained_in,
    }
    groups = recoded(taught.rows(), run.teacher.path, student.path)
    quantization = run.settings.teacher.quantization
    loading = {
        "teacher_precision": run.settings.teacher.precision.name,
        "teacher_quantization": quantization and quantization.name,
        "attn_implementation": run.settings.student.attn_implementation,
        "trust_remote_code": run.settings.student.trust_remote_code,
        "layout": run.settings.train.layout.name,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        stored = _stored_outputs(run, student, groups, taught, loading)
        figures = warmup(
            Path(student.path),
            run.teacher.path,
            groups,
            partial.path / "model",
            seed=run.settings.seed,
            report_to=run.settings.report_to,
            precision=run.settings.student.precision.name,
            checkpoints=partial.scratch / "checkpoints",
            lora=run.lora,
            use_liger_kernel=run.settings.student.use_liger_kernel,
            **loading,
            **stored,
        )
        history = figures.pop("history", [])
        if is_main_process():
            (partial.path / "history.json").write_text(json.dumps(history))
        return figures

    name = type(warmup).__name__
    what = f"{name} on {len(groups)} prompts answered by the teacher"
    output = run.stage("warmup", what, identity, make, every_rank=True)
    return model_of(output), json.loads((output.path / "history.json").read_text())


def _stored_outputs(
    run: Run,
    student: Model,
    groups: Sequence[Any],
    taught: Output,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """Where the teacher's outputs are on disk, as an argument of the warm-up; {} without any.

    They are an output of their own, so that warm-ups which differ in other things share them.
    """
    warmup: Any = run.settings.warmup
    what = getattr(warmup, "stored", None)
    if what is None:
        return {}
    identity = {
        "code": 1,
        "teacher": run.teacher.identity,
        "responses": taught.key,
        "outputs": what,
        "tables": sorted({table_size(run.teacher.path), table_size(student.path)}),
        "layout": run.settings.train.layout.name,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        folder = partial.path / "outputs"
        return warmup.store(Path(student.path), run.teacher.path, groups, folder, **loading)

    output = run.stage("teacher", f"its outputs on {len(groups)} responses, once", identity, make)
    return {"cache": output.path / "outputs"}


def check_warmup(run: Run) -> None:
    """Refuse, before anything runs, logits of two tokenizers, and projections beside adapters."""
    if isinstance(run.settings.warmup, HiddenWarmup) and run.lora is not None:
        sizes = [
            load_config(model.path).get_text_config().hidden_size
            for model in (run.start, run.teacher)
        ]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"warmup=hidden would train projections between the student's {sizes[0]} and the "
                f"teacher's {sizes[1]} dimensions, which a checkpoint of adapters cannot hold: set "
                "student.lora.r=null, or take warmup=logits."
            )
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
