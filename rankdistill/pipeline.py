"""A run: the stages in order. Each takes its output from the store where it is complete.

prompts -> student -> warmup -> sample -> score -> rank -> train -> evaluate -> report

What a stage's output depends on is in the `stage.py` of its package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rankdistill import console, settings
from rankdistill.evaluate.stage import Evaluation
from rankdistill.models import recoded
from rankdistill.models.stage import check_student, student
from rankdistill.prompts.stage import load
from rankdistill.rank.stage import existing, rank
from rankdistill.records import Group, Prompt
from rankdistill.run import Model, Run
from rankdistill.run_folder import write_run_folder
from rankdistill.sample.stage import sample
from rankdistill.score.stage import score
from rankdistill.store import Output, Store
from rankdistill.train.stage import train
from rankdistill.warmup.stage import check_warmup, warm_up


def run(config: DictConfig) -> None:
    """The whole job of a composed configuration; ends with a table and the run folder's paths."""
    console.quiet()
    job = Run(settings.build(config), Store(), Path(HydraConfig.get().runtime.output_dir))
    check_student(job)
    check_warmup(job)
    try:
        _run(job, config)
    finally:
        job.close_sampler()


def _run(job: Run, config: DictConfig) -> None:
    prompts = load(job)
    by_split: dict[str, list[Prompt]] = {"train": [], "validation": [], "heldout": []}
    for prompt in prompts.rows():
        by_split[prompt["split"]].append(prompt)  # type: ignore[arg-type]
    start = student(job, prompts)
    taught = _taught(job, by_split, prompts.key)
    warm, warmup_history = warm_up(job, start, taught)
    ranked = _ranked(job, warm, by_split, prompts.key, taught)
    trained, history = train(job, warm, ranked)

    models = {"start": start, "warmed_up": warm, "trained": trained, "teacher": job.teacher}
    if start == warm:
        del models["start"]
    evaluation = Evaluation(job, by_split["heldout"], prompts.key, warm)
    comparison = evaluation.compare(models)
    job.close_sampler()
    write_run_folder(job, config, comparison, ranked, trained, warmup_history, history)


def _taught(job: Run, by_split: dict[str, list[Prompt]], prompts_key: str) -> Output | None:
    """The teacher's responses to the train prompts, where something needs them.

    Its answers to the held-out prompts are sampled too, while its engine runs.
    """
    if not (job.settings.warmup.needs_teacher_responses or job.settings.sample.teacher_response):
        return None
    taught = sample(job, job.teacher, by_split["train"], prompts_key, "teacher", 1)
    count = job.settings.quick.responses_per_prompt
    sample(job, job.teacher, by_split["heldout"], prompts_key, "teacher", count)
    return taught


def _ranked(
    job: Run,
    warm: Model,
    by_split: dict[str, list[Prompt]],
    prompts_key: str,
    taught: Output | None,
) -> Output:
    """The ranked groups: an existing set, or the student's responses scored by the teacher."""
    if job.settings.rank.path is not None:
        return existing(job)
    prompts = by_split["train"] + by_split["validation"]
    count = job.settings.sample.responses_per_prompt
    sampled = sample(job, warm, prompts, prompts_key, "student", count)
    groups: list[Any] = sampled.rows()
    key: Any = sampled.key
    if job.settings.sample.teacher_response and taught is not None:
        more = recoded(taught.rows(), job.teacher.path, warm.path)
        groups, key = _joined(groups, more), [sampled.key, taught.key]
    scored = score(job, groups, key, warm, f"{len(groups)} prompts")
    return rank(job, scored.rows(), scored.key)  # type: ignore[arg-type]


def _joined(groups: Sequence[Group], taught: Sequence[Any]) -> list[Group]:
    """The groups with the teacher's response to the same prompt added."""
    more = {group["prompt_id"]: group["responses"] for group in taught}
    return [
        {**group, "responses": group["responses"] + more.get(group["prompt_id"], [])}
        for group in groups
    ]
