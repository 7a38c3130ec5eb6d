"""The score stage: every response gets a value from a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rankdistill.records import Group
from rankdistill.score.base import Judge, Scorer

__all__ = ["Judge", "Scorer", "score_groups"]


def score_groups(
    scorer: Scorer, groups: Sequence[Group], judge: Judge, done: int = 0
) -> Iterator[list[Group]]:
    """The groups after the first `done` with `scores[scorer.name]` and `score` in each response."""
    for values in scorer(groups, judge, done):
        part = groups[done : done + len(values)]
        done += len(values)
        yield [
            _with_scores(group, row, scorer.name) for group, row in zip(part, values, strict=True)
        ]


def _with_scores(group: Group, values: Sequence[float], name: str) -> Group:
    responses = [
        {**response, "scores": {**response.get("scores", {}), name: value}, "score": value}
        for response, value in zip(group["responses"], values, strict=True)
    ]
    return {**group, "responses": responses}  # type: ignore[typeddict-item]
