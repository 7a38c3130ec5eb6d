"""The train stage: the warmed-up student learns the ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.fields import identity_of
from rankdistill.models import Rows
from rankdistill.models.model import model_of
from rankdistill.objectives.candidates import learning_rate_of
from rankdistill.stages.agreement import check_sampler
from rankdistill.stages.reference import reference_logps
from rankdistill.stages.run import Model, Run
from rankdistill.store import Output, Partial
from rankdistill.store.sequences import mapped
from rankdistill.train.groups import own_groups
from rankdistill.train.ranking import RankingConfig, RankingTrainer
from rankdistill.trainer.arguments import optimised
from rankdistill.trainer.checkpoints import owes_evaluation
from rankdistill.trainer.modes import enable_gradient_checkpointing
from rankdistill.trainer.output import save_trained
from rankdistill.trainer.progress import peak_memory
from rankdistill.trainer.stopping import attended

INDIRECT = ("learning_rate", "learning_rate_grid", "learning_rate_scale")
"""The peak learning rate is in the key, so the keys it is computed from are not."""


def train(
    run: Run,
    student: Model,
    ranked: Output,
    *,
    reference: Model | None = None,
    learning_rate: float | None = None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The trained student and the history of its training.

    Args:
        reference: For an objective that needs one; None: the student before this training.
        learning_rate: Peak; None: that of the settings, see `peak_learning_rate`.
    """
    reference = reference or student
    run.close_sampler()
    objective = run.settings.objective
    rows = Rows.of(ranked, student).held()
    training, validation = (rows.of_splits(split).rows for split in ("train", "validation"))
    if learning_rate is None:
        learning_rate = peak_learning_rate(run)
    identity = {
        "code": 1,
        "student": student.identity,
        "ranked": ranked.key,
        "objective": run.settings.options["objective"],
        "train": identity_of(run.settings.train, instead=INDIRECT),
        "learning_rate": learning_rate,
        "seed": run.settings.seed,
        **run.trained_in,
    }
    logps: Mapping[str, Any] = {}
    if objective.needs_reference:
        used = rows.of_splits("train", "validation")
        logps = reference_logps(run, reference, used)
        if reference != student:
            identity["reference"] = reference.identity

    def make(partial: Partial) -> Mapping[str, Any]:
        check_sampler(run, student)
        with peak_memory() as memory:
            figures = _train(run, student, training, validation, logps, learning_rate, partial)
        return {**figures, "models": 1, **memory}  # a reference was asked before

    name = type(objective).__name__
    what = f"{name} on {len(training)} ranked groups, learning rate {learning_rate:g}"
    output = run.stage("train", what, identity, make, every_rank=True)
    return model_of(output, student.loading), json.loads((output.path / "history.json").read_text())


def peak_learning_rate(run: Run) -> float:
    """`train.learning_rate`, or what suits the objective times `train.learning_rate_scale`."""
    learning_rate = run.settings.train.learning_rate
    if learning_rate is not None:
        return learning_rate
    return learning_rate_of(run.settings.objective) * run.settings.train.learning_rate_scale


def _train(
    run: Run,
    student: Model,
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any],
    learning_rate: float,
    partial: Partial,
) -> Mapping[str, Any]:
    tokenizer = student.tokenizer()

    def load() -> Any:
        return student.trainable(run.lora, run.settings.seed)

    policy = load()
    enable_gradient_checkpointing(policy, run.settings.train.gradient_checkpointing)
    trainer = RankingTrainer(
        policy,
        _arguments(run, learning_rate, partial, bool(validation)),
        own_groups(_with_reference(training, reference), tokenizer),
        run.settings.objective,
        processing_class=tokenizer,
        eval_dataset=own_groups(_with_reference(validation, reference), tokenizer) or None,
    )
    with attended(trainer):
        trainer.train(resume_from_checkpoint=True)
    save_trained(trainer, tokenizer, partial.path / "model", load)
    if trainer.is_world_process_zero():
        (partial.path / "history.json").write_text(json.dumps(trainer.state.log_history))
    return {
        "groups": len(training),
        "steps": trainer.state.global_step,
        **trainer.memory_figures,
    }


def _arguments(run: Run, learning_rate: float, partial: Partial, validate: bool) -> RankingConfig:
    settings = run.settings.train
    checkpoints = str(partial.scratch / "checkpoints")
    return RankingConfig(
        checkpoints,
        layout=settings.layout.name,
        max_batch_tokens=settings.max_batch_tokens,
        prompts_per_step=settings.prompts_per_step,
        learning_rate=learning_rate,
        train_sampling_strategy=settings.sampling_strategy,
        use_liger_kernel=run.settings.student.use_liger_kernel,
        eval_strategy="epoch" if validate else "no",
        # What validation says before the first step, or what a kill kept it from saying.
        eval_on_start=validate and owes_evaluation(checkpoints),
        per_device_eval_batch_size=settings.prompts_per_step,
        seed=run.settings.seed,
        report_to=run.settings.report_to,
        **optimised(settings, run.settings.student.precision.name),
    )


def _with_reference(rows: Sequence[Any], reference: Mapping[str, Any]) -> Sequence[Any]:
    if not reference:
        return rows
    return mapped(rows, lambda row: {**row, "reference_logps": reference[row["prompt_id"]]})
