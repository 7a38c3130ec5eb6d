"""The responses of several writers to each prompt: outputs of the sample stage, joined."""

from __future__ import annotations

from dataclasses import replace

from rankdistill.models import Rows
from rankdistill.score.ensemble import merged
from rankdistill.score.writer import ByWriter
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.score import score
from rankdistill.stages.verified import verifier_of


def written_by_all(run: Run, student: Model, prompts: Rows, seed: int | None) -> Rows:
    """Groups with what each of `sample.writers` writes, in their order and the student's tokens.

    Args:
        student: As it is in this round.
        seed: Instead of the run's.
    """
    empty = [{**prompt, "responses": []} for prompt in prompts]
    groups = Rows(empty, prompts.key, student)
    known = {"student": student, "teacher": run.teacher, **run.writers}
    for name, count in run.settings.sample.counts_of_writers.items():
        more = sample(run, known[name], prompts, name, count, seed=seed, who=name)
        groups = groups.joined(more.recoded(student, whole_prompt=True))
    return replace(groups, source=[group for group in groups if group["responses"]])


def verified_too(run: Run, groups: Rows, scored: Rows) -> Rows:
    """The scored groups, where writers rank them, with what the evaluation's verifier says as well.

    It has no part in the ranking: the report holds the writers' order against it.
    """
    asked, verifier = run.settings.scorer.members, verifier_of(run.settings)
    by_writer = any(isinstance(scorer, ByWriter) for scorer in asked.values())
    if not by_writer or verifier is None or verifier.name in asked:
        return scored
    checked = score(run, groups, f"{len(groups)} prompts, to hold the writers against", verifier)
    rows = merged([scored.rows, checked.rows])
    return Rows(rows, [scored.key, checked.key], scored.writer)
