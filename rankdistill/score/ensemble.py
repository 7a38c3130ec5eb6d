"""Several scorers at once: `score=ensemble`. Each is a stage output of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.errors import UserError
from rankdistill.rows import Group
from rankdistill.score.scorer import Scorer


@dataclass(frozen=True)
class Ensemble:
    """Scorers by the names under which their values stand; `rank` puts the values together.

    It is asked nothing itself: the score stage asks its `members` one by one.

    Raises:
        UserError: fewer than two scorers.
    """

    scorers: dict[str, Any]
    """Of `Scorer`."""

    def __post_init__(self) -> None:
        if len(self.scorers) < 2:
            raise UserError(
                "score=ensemble has fewer than two scorers: add one, for example "
                "'+score@score.scorers.verifier=verifier', or take score=<the one> by itself."
            )

    @property
    def name(self) -> str:
        return " and ".join(self.scorers)

    @property
    def members(self) -> dict[str, Scorer]:
        """The scorers by name."""
        return dict(self.scorers)

    @property
    def identity(self) -> dict[str, Any]:
        return {name: scorer.identity for name, scorer in self.scorers.items()}

    @property
    def absolute(self) -> Ensemble:
        """The same, with judges of orders asked for ratings."""
        return Ensemble({name: scorer.absolute for name, scorer in self.scorers.items()})


def is_relative(scorer: Scorer | Ensemble) -> bool:
    """Whether a value tells nothing about responses to other prompts, or beside other ones."""
    return any(member.relative for member in scorer.members.values())


def merged(groups: Sequence[Sequence[Group]]) -> list[Group]:
    """The same groups with the values and ballots of every scorer; `score` is left to `rank`."""
    return [_merged(same) for same in zip(*groups, strict=True)]


def _merged(same: Sequence[Group]) -> Group:
    responses = []
    for response in zip(*(group["responses"] for group in same), strict=True):
        whole: dict[str, Any] = {}
        for part in response:
            joined = {key: {**whole.get(key, {}), **part.get(key, {})} for key in _JOINED}
            whole = {**whole, **part, **{key: value for key, value in joined.items() if value}}
        whole.pop("score", None)
        responses.append(whole)
    ballots = [ballot for group in same for ballot in group.get("ballots", [])]
    group = {**same[0], "responses": responses}
    return {**group, "ballots": ballots} if ballots else group  # type: ignore[return-value]


_JOINED = ("scores", "aspects")
