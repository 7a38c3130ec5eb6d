"""The score stage: the scorer's values for every response, some groups at a time into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.console import progress
from rankdistill.records import Group
from rankdistill.run import Model, Run
from rankdistill.score import Judge, score_groups
from rankdistill.store import Output, Partial


def score(run: Run, groups: Sequence[Group], groups_key: Any, writer: Model, what: str) -> Output:
    """The groups with `scores` and `score` in each response.

    Args:
        groups_key: What determines `groups`.
        writer: The model whose tokenizer the responses' token ids belong to.
        what: Whose responses, for the person.
    """
    scorer, teacher = run.settings.scorer, run.settings.teacher
    judge = Judge(
        path=run.teacher.path,
        precision=teacher.precision.name,
        attn_implementation=teacher.attn_implementation,
        trust_remote_code=teacher.trust_remote_code,
        layout=run.settings.train.layout.name,
        writer=writer.path,
    )
    identity = {
        "code": 1,
        "groups": groups_key,
        "scorer": scorer.identity,
        "teacher": run.teacher.identity,
        "layout": judge.layout,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        shards = partial.shards()
        done = len(shards.rows())
        with progress(len(groups), "groups", done=done) as bar:
            for part in score_groups(scorer, groups, judge, done):
                shards.append(part)
                bar.advance(len(part))
        return {"groups": len(groups), "responses": sum(len(g["responses"]) for g in groups)}

    return run.stage("score", f"{what}: {scorer.name} under the teacher", identity, make)
