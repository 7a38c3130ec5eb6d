"""The score stage: every response gets a value from each scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rankdistill.rows import Group
from rankdistill.score.scorer import Questions, Scorer, TeacherAccess, Verdict

__all__ = ["Questions", "Scorer", "TeacherAccess", "Verdict", "score_groups"]


def score_groups(
    scorer: Scorer,
    groups: Sequence[Group],
    access: TeacherAccess,
    done: int = 0,
    *,
    name: str | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[list[Group]]:
    """The groups after the first `done` with `scores[name]` and `score` in each response.

    Args:
        name: Of its values; None is the scorer's own.
        counts: What the verdicts count is added here, before the groups are delivered.
    """
    for values in scorer(groups, access, done):
        part = groups[done : done + len(values)]
        done += len(values)
        verdicts = [row if isinstance(row, Verdict) else Verdict(row) for row in values]
        for verdict in verdicts:
            if counts is not None:
                counts.update(verdict.counts)  # type: ignore[arg-type]
        yield [
            _with_scores(group, verdict, name or scorer.name)
            for group, verdict in zip(part, verdicts, strict=True)
        ]


def _with_scores(group: Group, verdict: Verdict, name: str) -> Group:
    responses = []
    for place, response in enumerate(group["responses"]):
        value = verdict.values[place]
        scored = {
            **response,
            "scores": {**response.get("scores", {}), name: value},
            "score": value,
        }
        if verdict.aspects:
            aspects = {f"{name}/{key}": row[place] for key, row in verdict.aspects.items()}
            scored["aspects"] = {**response.get("aspects", {}), **aspects}
        responses.append(scored)
    if not verdict.ballots:
        return {**group, "responses": responses}  # type: ignore[typeddict-item]
    ballots = [{**ballot, "scorer": name} for ballot in verdict.ballots]
    ballots = [*group.get("ballots", []), *ballots]
    return {**group, "responses": responses, "ballots": ballots}  # type: ignore[typeddict-item]
