"""The score stage: the scorers' values for every response, some groups at a time into the store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rankdistill.cluster.ray import rows_of
from rankdistill.cluster.work import SPENT, Scoring, scored_rows
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
from rankdistill.store.sharing import Chunk, collect, share, was_shared
from rankdistill.thoughts import thinks

CHUNKS_EACH = 4
"""Chunks per process that shares the work; a scorer loads its model once for each."""


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
        **({"thoughts": "left out"} if not scorer.reads_thoughts and thinks(groups) else {}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        if scorer.on_this_machine and not on_cluster:
            run.close_sampler()
        rows = groups.rows
        read = rows if view is None else read_by_teacher(rows, view, writer)
        if on_cluster or shared or was_shared(partial):
            work = Scoring(scorer, name, access, run.teacher_engine_elsewhere)
            return _together(run, work, rows, read, partial, on_cluster=on_cluster)
        shards, taken = partial.shards(), partial.shards("counts")
        done, counts = len(shards.rows()), Counter[str]()
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

    number, takes_part = run.workers(_gpus(scorer))
    has_cluster = run.settings.cluster is not None
    # A server does not answer faster where several processes ask, and other rules see all groups.
    together = (
        (has_cluster or number > 1)
        and (scorer.runs_here or scorer.verifies)
        and _are_told_apart(groups)
    )
    on_cluster, shared = together and has_cluster, together and not has_cluster
    by = f"{name} under the teacher" if uses_teacher else name
    every = shared and takes_part
    return run.stage("score", f"{what}: {by}", identity, make, every_rank=every)


def _together(
    run: Run,
    work: Scoring,
    rows: Sequence[Any],
    read: Sequence[Any],
    partial: Partial,
    *,
    on_cluster: bool,
) -> Mapping[str, Any]:
    """Scores groups on a cluster, or with other processes; each of them loads the models.

    Args:
        read: The groups as the scorer reads them.
    """
    names = [str(name) for name in values_of(rows, "prompt_id")]
    place_of, spent = {name: place for place, name in enumerate(names)}, Counter[str]()
    cluster = run.settings.cluster if on_cluster else None
    number = run.workers(_gpus(work.scorer))[0] if cluster is None else cluster.max
    at_once = max(1, math.ceil(len(names) / (CHUNKS_EACH * number)))

    def here(_: Sequence[int], left: Sequence[int]) -> Iterator[Any]:
        return scored_rows(work.scorer, work.name, work.access, selected(read, left))

    def by_replicas(chunks: Sequence[Chunk]) -> Iterator[Any]:
        assert cluster is not None
        asked = [[read[place] for place in left] for _, left in chunks]
        elsewhere = replace(work, access=replace(work.access, engine=None))  # which is this run's
        return rows_of(cluster, elsewhere, asked, run.gpus_each)

    def finished(row: Any) -> Any:
        spent.update(row.get(SPENT, {}))
        kept = {key: value for key, value in row.items() if key != SPENT}
        return _as_it_was(kept, rows[place_of[row["prompt_id"]]])

    with progress(len(names), "groups") as bar:
        if cluster is None:
            share(partial, names, at_once, here, finished, bar.advance)
        else:
            collect(partial, names, at_once, by_replicas, finished, bar.advance)
    if not partial.writable:
        return {}
    alone = partial.shards("counts").rows()  # of an earlier attempt by one process
    return _counts(partial.shards().rows(), [spent, *alone], work.name)


def _gpus(scorer: Scorer) -> int | None:
    """That an engine of its own takes; None: it has none."""
    asked = scorer.questions(2)
    return None if asked is None else asked.tensor_parallel_size


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
