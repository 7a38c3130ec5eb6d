"""Who writes responses in a run, checked before anything is computed."""

from __future__ import annotations

from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts.privileged import BEST, KEY, TeachersView
from rankdistill.sample.endpoint import check_endpoint
from rankdistill.schema import SampleConfig
from rankdistill.score.writer import ByWriter
from rankdistill.train.schema import PPOTrainOptions


def order_writers(options: dict[str, Any], sample: SampleConfig) -> None:
    """Have `score=writer` take the writers in the order of `sample.writers`, unless it says one.

    Args:
        options: The keys of `score`, which are changed.
    """
    for scorer in [options, *(options.get("scorers") or {}).values()]:
        ours = scorer.get("_target_") == f"{ByWriter.__module__}.{ByWriter.__qualname__}"
        if ours and scorer.get("order") is None and sample.writers is not None:
            scorer["order"] = list(sample.counts_of_writers)


def check_authors(settings: Any) -> None:
    """Refuse writers that would have nothing to write, and orders of writers that say nothing.

    Args:
        settings: A `Settings`.

    Raises:
        UserError: A served teacher whose address is none, or that is asked for nothing; writers
            beside an existing set; `score=writer` without an order, or as the held-out judge.
    """
    _check_endpoint(settings)
    _check_view(settings)
    ordered = [s for s in settings.scorer.members.values() if isinstance(s, ByWriter)]
    if any(scorer.order is None for scorer in ordered):
        raise UserError(
            "score=writer ranks by who wrote: give the writers from the strongest to the weakest, "
            "as in 'sample.writers=[teacher,student]', or of an existing set score.order."
        )
    _check_orders(ordered, settings)
    if settings.sample.writers is not None and settings.rank.path is not None:
        raise UserError(
            "sample.writers is set, and rank.path brings the responses: set one of them to null."
        )
    asked = (settings.judge or settings.scorer).members.values()
    if settings.quick is not None and any(isinstance(s, ByWriter) for s in asked):
        raise UserError(
            "score=writer cannot judge held-out answers, all of which are one writer's: name "
            "another judge, as score@eval.judge=likelihood or score@eval.judge=demands."
        )


def _check_orders(ordered: list[ByWriter], settings: Any) -> None:
    """Refuse an order of which fewer than two write, before they do."""
    sample = settings.sample
    if sample.writers is None or settings.rank.path is not None:
        return
    wrote = set(sample.counts_of_writers)
    wrote |= {"teacher_revision"} if sample.teacher_revision else set()
    wrote |= {"rule"} if sample.rule_rewrite else set()
    wrote |= {"cluster"} if sample.from_cluster else set()
    for scorer in ordered:
        scorer.check_order(wrote)


def _check_view(settings: Any) -> None:
    """Refuse what the teacher alone is to be shown, where that is not known or not there."""
    teacher = settings.teacher
    view = TeachersView.of(teacher.prompt_template, teacher.system_prompt)
    if view is None:
        return
    if settings.prompts.instructions is None:
        view.check(settings.prompts.keep)
    if BEST not in view.placeholders:
        return
    train, sample = settings.train, settings.sample
    if settings.rank.path is None:
        if not (isinstance(train, PPOTrainOptions) and train.distils):
            raise UserError(
                f"{KEY} shows {{best}}, the best response of a ranked set, and there is none when "
                "the teacher is asked: give rank.path, or train=distillation."
            )
        before = {
            "warmup=none": settings.warmup.lessons is not None,
            "sample.teacher_response=false": sample.teacher_response,
        }
        if any(before.values()):
            remedies = ", ".join(remedy for remedy, asked in before.items() if asked)
            raise UserError(
                f"{KEY} shows {{best}}, the best response of the run's own ranking, which there is "
                f"none of when the teacher writes or warms up the student: set {remedies}."
            )
    ranks = settings.rank.path is None or settings.rank.rescore
    asked = [settings.scorer] if ranks else []
    asked += [settings.judge or settings.scorer] if settings.quick is not None else []
    if any(member.uses_teacher for scorer in asked for member in scorer.members.values()):
        raise UserError(
            f"{KEY} shows {{best}}, which the teacher would see while it scores: take a score "
            "that does not ask it, or eval=[ranked]."
        )


def _check_endpoint(settings: Any) -> None:
    check_endpoint(settings.sample.endpoint)
    used = endpoint_writes(settings) or endpoint_reads(settings)
    if settings.sample.endpoint.model is not None and not used:
        raise UserError(
            f"sample.endpoint.model is '{settings.sample.endpoint.model}', and the teacher writes "
            "nothing: set warmup=sft, sample.teacher_response=true, sample.teacher_revision=true, "
            "prompts=augmented, or train=distillation train.teachers=endpoint, or "
            "sample.endpoint.model=null."
        )


def endpoint_reads(settings: Any) -> bool:
    """Whether the served teacher says what the student's tokens are worth."""
    train = settings.train
    distils = isinstance(train, PPOTrainOptions) and train.distils and settings.rounds > 0
    return distils and "endpoint" in train.named_teachers.values()


def endpoint_writes(settings: Any) -> bool:
    """Whether anything is written by the served teacher, where there is one."""
    sample, lessons = settings.sample, settings.warmup.lessons
    ranks = settings.rank.path is None and settings.rounds > 0
    writes = [
        lessons is not None and lessons.source == "teacher",
        ranks and (sample.teacher_response or sample.teacher_revision),
        ranks and "endpoint" in sample.counts_of_writers,
        settings.prompts.augment.requests > 0,
    ]
    return any(writes)
