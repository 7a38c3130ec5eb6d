"""The score stage: the scorers' values for every response, some groups at a time into the store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rankdistill.store.sequences import selected, values_of
from rankdistill.store.sharing import share, was_shared

CHUNKS_EACH = 4
"""Chunks per process that shares the work; a scorer loads its model once for each."""
SPENT = "spent"
"""In a row that several processes made: what it and those behind it took."""


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

    def scored(before: Sequence[Any], counts: Counter[str], done: int = 0) -> Iterator[list[Any]]:
        read = before if view is None else read_by_teacher(before, view, writer)
        left = iter(before[done:])
        for part in score_groups(scorer, read, access, done, name=name, counts=counts):
            yield [_as_it_was(row, was) for row, was in zip(part, left, strict=False)]

    def make(partial: Partial) -> Mapping[str, Any]:
        if scorer.on_this_machine:
            run.close_sampler()
        if shared or was_shared(partial):
            return _shared(run, groups, name, scored, partial)
        shards, taken = partial.shards(), partial.shards("counts")
        done, counts = len(shards.rows()), Counter[str]()
        with progress(len(groups), "groups", done=done) as bar:
            for part in scored(groups.rows, counts, done):
                shards.append(part)
                if counts:
                    taken.append([dict(counts)])
                    counts.clear()
                bar.advance(len(part))
        return _counts(shards.rows(), taken.rows(), name)

    number, takes_part = run.workers
    shared = number > 1 and scorer.runs_here and _are_told_apart(groups)
    every = shared and takes_part
    by = f"{name} under the teacher" if uses_teacher else name
    return run.stage("score", f"{what}: {by}", identity, make, every_rank=every)


def _shared(
    run: Run,
    groups: Rows,
    name: str,
    scored: Callable[[Sequence[Any], Counter[str]], Iterator[list[Any]]],
    partial: Partial,
) -> Mapping[str, Any]:
    """Scores the groups together with other processes, which load the same models."""
    rows, spent = groups.rows, Counter[str]()
    names = [str(name) for name in values_of(rows, "prompt_id")]
    at_once = max(1, math.ceil(len(names) / (CHUNKS_EACH * run.workers[0])))

    def made(places: Sequence[int], left: Sequence[int]) -> Iterator[Any]:
        counts = Counter[str]()
        for first, *others in scored(selected(rows, left), counts):
            yield {**first, SPENT: dict(counts)}
            yield from others
            counts.clear()

    def finished(row: Any) -> Any:
        spent.update(row.get(SPENT, {}))
        return {key: value for key, value in row.items() if key != SPENT}

    with progress(len(names), "groups") as bar:
        share(partial, names, at_once, made, finished, bar.advance)
    if not partial.writable:
        return {}
    alone = partial.shards("counts").rows()  # of an earlier attempt by one process
    return _counts(partial.shards().rows(), [spent, *alone], name)


def _are_told_apart(groups: Rows) -> bool:
    """Whether a `prompt_id` is one group's."""
    names = values_of(groups.rows, "prompt_id")
    return len(set(names)) == len(names)


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
