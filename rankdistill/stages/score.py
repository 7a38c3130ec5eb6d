"""The score stage: the scorers' values for every response, some groups at a time into the store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rankdistill.console import progress
from rankdistill.models import recoding
from rankdistill.rank.combine import Scale, scale_of, standardised
from rankdistill.rows import Group
from rankdistill.score import Scorer, score_groups
from rankdistill.score.ensemble import members, merged
from rankdistill.stages.run import Model, Run
from rankdistill.store import Output, Partial


class Scored(Protocol):
    """Scored groups, and what determines them."""

    @property
    def key(self) -> Any: ...

    def rows(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Outputs:
    """The outputs of several scorers on the same groups."""

    outputs: Sequence[Output]
    weights: Mapping[str, float]

    @property
    def key(self) -> list[str]:
        return [output.key for output in self.outputs]

    def rows(self, scale: Scale | None = None) -> list[dict[str, Any]]:
        """The groups, their `score` the weighted mean of the standardised values.

        Args:
            scale: Of the values; None is that of these groups.
        """
        groups = merged([output.rows() for output in self.outputs])  # type: ignore[arg-type]
        scale = scale or scale_of(groups, self.weights)
        return standardised(groups, self.weights, scale)  # type: ignore[return-value]


def score(
    run: Run,
    groups: Sequence[Group],
    groups_key: Any,
    writer: Model,
    what: str,
    scorer: Scorer | None = None,
) -> Scored:
    """The groups with `scores` in each response, and `score` where there is one scorer.

    Args:
        groups_key: What determines `groups`.
        writer: The model whose tokenizer the responses' token ids belong to.
        what: Whose responses, for the person.
        scorer: In place of the run's.
    """
    asked = members(scorer or run.settings.scorer)
    outputs = [
        _score(run, groups, groups_key, writer, what, name, member)
        for name, member in asked.items()
    ]
    if len(outputs) == 1:
        return outputs[0]
    weights = run.settings.rank.weights or {}
    return Outputs(outputs, {name: weights.get(name, 1.0) for name in asked})


def check_scorers(run: Run) -> None:
    """Refuse at start-up what can be known there: no endpoint, no log-probabilities, no vLLM."""
    access = run.teacher_access(run.start)
    for scorer in filter(None, (run.settings.scorer, run.settings.judge)):
        for member in members(scorer).values():
            member.check(access)
            _ = member.identity  # its files are watched from here on


def _score(
    run: Run,
    groups: Sequence[Group],
    groups_key: Any,
    writer: Model,
    what: str,
    name: str,
    scorer: Scorer,
) -> Output:
    access = run.teacher_access(writer)
    uses_teacher = scorer.uses_teacher
    identity = {
        "code": 1,
        "groups": groups_key,
        "scorer": scorer.identity,
        "teacher": run.teacher.identity if uses_teacher else None,
        "layout": access.layout if uses_teacher else None,
        **({} if name == scorer.name else {"name": name}),
        **(recoding(writer, run.teacher) if uses_teacher else {}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        if scorer.on_this_machine:
            run.close_sampler()
        shards, taken = partial.shards(), partial.shards("counts")
        done, counts = len(shards.rows()), Counter[str]()
        with progress(len(groups), "groups", done=done) as bar:
            for part in score_groups(scorer, groups, access, done, name=name, counts=counts):
                shards.append(part)
                if counts:
                    taken.append([dict(counts)])
                    counts.clear()
                bar.advance(len(part))
        return _counts(shards.rows(), taken.rows(), name)

    by = f"{name} under the teacher" if uses_teacher else name
    return run.stage("score", f"{what}: {by}", identity, make)


def _counts(rows: Sequence[Any], taken: Sequence[Any], name: str) -> dict[str, Any]:
    values = [response["scores"][name] for row in rows for response in row["responses"]]
    counts = Counter[str]()
    for row in taken:
        counts.update(row)
    return {
        "groups": len(rows),
        "responses": len(values),
        "without_score": sum(not math.isfinite(value) for value in values),
        **counts,
    }
