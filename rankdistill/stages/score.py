"""The score stage: the scorers' values for every response, some groups at a time into the store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.console import progress
from rankdistill.models import Rows, recoding
from rankdistill.prompts.privileged import read_by_teacher
from rankdistill.rank.combine import Scale, scale_of, standardised
from rankdistill.rows import row_columns
from rankdistill.score import Scorer, score_groups
from rankdistill.score.ensemble import Ensemble, merged
from rankdistill.stages.run import Run
from rankdistill.store import Output, Partial


def score(
    run: Run,
    groups: Rows,
    what: str,
    scorer: Scorer | Ensemble | None = None,
    scale: Scale | None = None,
) -> Rows:
    """The groups with `scores` in each response, and `score`.

    `score` is the value of the scorer, or the weighted mean of several scorers' standardised ones.

    Args:
        what: Whose responses, for the person.
        scorer: In place of the run's.
        scale: Of several scorers' values; None is that of these groups.
    """
    asked = (scorer or run.settings.scorer).members
    outputs = [_score(run, groups, what, name, member) for name, member in asked.items()]
    if len(outputs) == 1:
        return Rows.of(outputs[0], groups.writer)
    weights = weights_of(run, scorer or run.settings.scorer)
    rows = merged([output.rows() for output in outputs])  # type: ignore[arg-type]
    rows = standardised(rows, weights, scale or scale_of(rows, weights))
    return Rows(rows, [output.key for output in outputs], groups.writer)


def weights_of(run: Run, scorer: Scorer | Ensemble) -> dict[str, float]:
    """The weight of each scorer that `scorer` consists of, by name."""
    weights = run.settings.rank.weights or {}
    return {name: weights.get(name, 1.0) for name in scorer.members}


def check_scorers(run: Run) -> None:
    """Refuse at start-up what can be known there: no endpoint, no log-probabilities, no vLLM."""
    access = run.teacher_access(run.start)
    for scorer in filter(None, (run.settings.scorer, run.settings.judge)):
        for member in scorer.members.values():
            member.check(access)
            _ = member.identity  # its files are watched from here on


def check_conversations(run: Run, prompts: Rows) -> None:
    """Refuse prompts that a scorer could not read, as soon as they are known.

    A chat template may take no system turn, which the student's does; a prompt may ask for what no
    rule checks.
    """
    settings = run.settings
    asked: list[tuple[Any, str]] = []
    if settings.rounds and (settings.rank.path is None or settings.rank.rescore):
        asked += [(settings.scorer, "train"), (settings.scorer, "validation")]
    if settings.quick is not None:
        asked.append((settings.judge or settings.scorer, "heldout"))
    access = run.teacher_access(run.start)
    for scorer, split in asked:
        found: dict[tuple[str, ...], Any] = {}
        columns = []
        for prompt in prompts.of_splits(split):
            found[tuple(m["role"] for m in prompt["messages"])] = prompt["messages"]
            columns.append(row_columns(prompt))
        for member in scorer.members.values():
            member.check_conversations(list(found.values()), access)
            member.check_columns(columns)


def _score(run: Run, groups: Rows, what: str, name: str, scorer: Scorer) -> Output:
    writer = groups.writer
    assert writer is not None
    access = run.teacher_access(writer)
    uses_teacher = scorer.uses_teacher
    view = run.teachers_view if uses_teacher else None
    identity = {
        "code": 1,
        "groups": groups.key,
        "scorer": scorer.identity,
        "teacher": run.teacher.identity if uses_teacher else None,
        "layout": access.layout if uses_teacher else None,
        **({} if name == scorer.name else {"name": name}),
        **(recoding(writer, run.teacher) if uses_teacher else {}),
        **({} if view is None else {"teacher_sees": view.identity}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        if scorer.on_this_machine:
            run.close_sampler()
        shards, taken = partial.shards(), partial.shards("counts")
        done, counts = len(shards.rows()), Counter[str]()
        rows = groups.rows
        read = rows if view is None else read_by_teacher(rows, view, writer)
        left = iter(rows[done:])
        with progress(len(groups), "groups", done=done) as bar:
            for part in score_groups(scorer, read, access, done, name=name, counts=counts):
                shards.append(
                    [_as_it_was(row, before) for row, before in zip(part, left, strict=False)]
                )
                if counts:
                    taken.append([dict(counts)])
                    counts.clear()
                bar.advance(len(part))
        return _counts(shards.rows(), taken.rows(), name)

    by = f"{name} under the teacher" if uses_teacher else name
    return run.stage("score", f"{what}: {by}", identity, make)


def _as_it_was(scored: Any, before: Any) -> Any:
    """The scored group with the conversation that the teacher may have seen otherwise."""
    names = [name for name in ("messages", "prompt_tokens") if name in before]
    return {**scored, **{name: before[name] for name in names}}


def _counts(rows: Sequence[Any], taken: Sequence[Any], name: str) -> dict[str, Any]:
    counts = Counter[str](groups=len(rows), responses=0, without_score=0)
    for row in rows:
        values = [response["scores"][name] for response in row["responses"]]
        counts["responses"] += len(values)
        counts["without_score"] += sum(not math.isfinite(value) for value in values)
    for row in taken:
        counts.update(row)
    return dict(counts)
