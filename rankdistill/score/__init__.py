"""The score stage: every response gets a value from each scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rankdistill.rows import Group
from rankdistill.score.scorer import Questions, Scorer, TeacherAccess, Verdict
from rankdistill.store.sequences import mapped
from rankdistill.thoughts import has_no_answer, with_answers

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

    The scorer is shown answers without their thoughts, unless it reads these too. A response that
    ended before its thought did has no answer, and none that is right: a verifier's value is 0.

    Args:
        name: Of its values; None is the scorer's own.
        counts: What the verdicts count is added here, before the groups are delivered.
    """
    shown = groups if scorer.reads_thoughts else mapped(groups, with_answers)
    for values in scorer(shown, access, done):
        part = list(groups[done : done + len(values)])
        done += len(values)
        verdicts = [row if isinstance(row, Verdict) else Verdict(row) for row in values]
        if (least := scorer.without_answer) is not None:
            verdicts = [
                _without_answers(verdict, group, least)
                for verdict, group in zip(verdicts, part, strict=True)
            ]
        for verdict in verdicts:
            if counts is not None:
                counts.update(verdict.counts)  # type: ignore[arg-type]
        yield [
            _with_scores(group, verdict, name or scorer.name)
            for group, verdict in zip(part, verdicts, strict=True)
        ]


def _without_answers(verdict: Verdict, group: Group, least: float) -> Verdict:
    """The verdict, with `least` for responses that are nothing but thoughts; these are counted."""
    lost = [has_no_answer(response["text"]) for response in group["responses"]]
    if not any(lost):
        return verdict
    values = [least if none else v for none, v in zip(lost, verdict.values, strict=True)]
    counts = Counter[str](thoughts_without_answer=sum(lost))
    counts.update(verdict.counts)  # type: ignore[arg-type]
    return replace(verdict, values=values, counts=counts)


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
