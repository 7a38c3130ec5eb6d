"""The votes of the scorers become one score per response, before anything is ranked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankdistill.errors import UserError, suggest
from rankdistill.rank.aggregate import AGGREGATIONS, Vote, ballot_of
from rankdistill.rank.ranking import score_by
from rankdistill.rows import Ballot, Group, Response, answer_tokens
from rankdistill.store.sequences import mapped

Scale = Mapping[str, tuple[float, float]]
"""Mean and standard deviation of each scorer's values."""


def combine(
    groups: Sequence[Group], weights: Mapping[str, float] | None, how: str
) -> Sequence[Group]:
    """The groups with `score` in each response; NaN where the votes do not tell.

    Args:
        weights: Of the scorers, by name; None keeps the `score` that is there, as one scorer.
        how: `mean`: one scorer's own values, or the weighted mean of several, each standardised
            over all groups; NaN where one of them is missing. `borda`, `bradley_terry`, `elo`: from
            the ballots of each scorer, or else the order of its values; scorers have their weight
            in all, however many ballots they cast.

    Raises:
        UserError: a weight names a scorer that gave no value.
    """
    if weights is None:
        if how == "mean":
            return groups
        weights = {"score": 1.0}
        groups = mapped(groups, _with_own_score)
    _check_names(groups, weights)
    if how == "mean":
        return standardised(groups, weights, scale_of(groups, weights))
    aggregate, of = AGGREGATIONS[how], weights
    return mapped(
        groups,
        lambda group: _scored(group, aggregate(_votes(group, of), len(group["responses"]))),
    )


def scale_of(groups: Sequence[Group], names: Mapping[str, float]) -> Scale:
    """The scale of each scorer on these groups; one scorer alone keeps its own."""
    if len(names) == 1:
        return dict.fromkeys(names, (0.0, 1.0))
    scale = {}
    for name in names:
        values = np.array([score_by(r, name) for group in groups for r in group["responses"]])
        values = values[np.isfinite(values)]
        spread = float(values.std()) if values.size else 0.0
        scale[name] = (float(values.mean()) if values.size else 0.0, spread or 1.0)
    return scale


def standardised(
    groups: Sequence[Group], weights: Mapping[str, float], scale: Scale
) -> Sequence[Group]:
    """The groups with the weighted mean of the scorers' values on `scale` as `score`."""
    total = sum(weights.values())

    def score(response: Response) -> float:
        around = {
            name: (score_by(response, name) - scale[name][0]) / scale[name][1] for name in weights
        }
        return sum(weight * around[name] for name, weight in weights.items()) / total

    return mapped(groups, lambda group: _scored(group, [score(r) for r in group["responses"]]))


def debiased(groups: Sequence[Group]) -> tuple[Sequence[Group], float]:
    """The groups with what length explains taken out of `score`, and the slope, score per token.

    One slope for all: ordinary least squares of score on response tokens, both around the mean of
    their prompt, so that prompts that call for long responses do not count as a bias.
    """
    numerator = denominator = 0.0
    for group in groups:
        scores = np.array([_score(r) for r in group["responses"]], float)
        lengths = np.array([answer_tokens(r) for r in group["responses"]], float)
        known = np.isfinite(scores)
        if known.sum() > 1:
            around = lengths[known] - lengths[known].mean()
            numerator += float((around * (scores[known] - scores[known].mean())).sum())
            denominator += float((around**2).sum())
    slope = numerator / denominator if denominator else 0.0

    def corrected(group: Group) -> Group:
        responses = group["responses"]
        lengths = [answer_tokens(r) for r in responses]
        known = [n for r, n in zip(responses, lengths, strict=True) if math.isfinite(_score(r))]
        centre = float(np.mean(known)) if known else 0.0
        return _scored(
            group,
            [_score(r) - slope * (n - centre) for r, n in zip(responses, lengths, strict=True)],
        )

    return mapped(groups, corrected), slope


def without_missing(group: Group, counts: Counter[str]) -> Group:
    """The group without the responses that have no score, where two with one remain; counted."""
    keep = [i for i, r in enumerate(group["responses"]) if math.isfinite(r.get("score", math.nan))]
    if len(keep) < 2 or len(keep) == len(group["responses"]):
        return group
    counts["responses_without_score"] += len(group["responses"]) - len(keep)
    return {**group, "responses": [group["responses"][i] for i in keep]}


def with_places(group: Group) -> Group:
    """The group with each response's place, so that ballots can follow what becomes of them."""
    if "ballots" not in group:
        return group
    responses: list[Any] = [{**r, "place": i} for i, r in enumerate(group["responses"])]
    return {**group, "responses": responses}


def with_moved_ballots(group: Group) -> Group:
    """The group with its ballots on the responses that are left, in their new places."""
    if "ballots" not in group:
        return group
    responses: list[Any] = [dict(r) for r in group["responses"]]
    moved = {r.pop("place"): i for i, r in enumerate(responses)}
    ballots = [_moved(ballot, moved) for ballot in group.get("ballots", [])]
    ballots = [ballot for ballot in ballots if len(ballot["shown"]) > 1]
    return {**group, "responses": responses, "ballots": ballots}


def _moved(ballot: Ballot, to: Mapping[int, int]) -> Ballot:
    left = [(to[i], r) for i, r in zip(ballot["shown"], ballot["ranks"], strict=True) if i in to]
    dense = sorted({rank for _, rank in left})
    return {
        "scorer": ballot["scorer"],
        "shown": [i for i, _ in left],
        "ranks": [dense.index(rank) for _, rank in left],
    }


def votes_of(group: Group, name: str) -> list[Ballot]:
    """A scorer's ballots; where it casts none, the order of its values."""
    cast = [ballot for ballot in group.get("ballots", []) if ballot["scorer"] == name]
    return cast or [ballot_of(name, [score_by(r, name) for r in group["responses"]])]


def _votes(group: Group, weights: Mapping[str, float]) -> list[Vote]:
    """All ballots, each scorer's sharing its weight, which add up to the number of ballots."""
    cast = {name: votes_of(group, name) for name in weights}
    number = sum(map(len, cast.values()))
    total = sum(weights.values())
    return [
        (ballot, number * weights[name] / total / len(ballots))
        for name, ballots in cast.items()
        for ballot in ballots
        if weights[name] > 0
    ]


def _check_names(groups: Sequence[Group], weights: Mapping[str, float]) -> None:
    known = {name for g in groups for r in g["responses"] for name in r.get("scores", {})}
    for name, weight in weights.items():
        if name not in known:
            raise UserError(f"rank.weights names '{name}', which scored nothing: "
                            f"{suggest(name, known)}")  # fmt: skip
        if weight < 0 or not any(weights.values()):
            raise UserError(f"rank.weights.{name} is {weight}; weights are at least 0, not all 0.")


def _score(response: Response) -> float:
    return response.get("score", math.nan)


def _with_own_score(group: Group) -> Group:
    """The group with `score` among the `scores`."""
    responses: list[Any] = [
        {**r, "scores": {**r.get("scores", {}), "score": _score(r)}} for r in group["responses"]
    ]
    return {**group, "responses": responses}


def _scored(group: Group, scores: Sequence[float]) -> Group:
    responses: list[Any] = [
        {**r, "score": float(score)} for r, score in zip(group["responses"], scores, strict=True)
    ]
    return {**group, "responses": responses}
