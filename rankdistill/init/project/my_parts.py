"""A scorer and an objective of your own; score/mine.yaml and objective/mine.yaml name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rankdistill.objectives import Candidates, ObjectiveOutput
from rankdistill.objectives.lists import RankedLists, differences, watch
from rankdistill.score import Scorer


@dataclass(frozen=True)
class NearLength(Scorer):
    """Ranks a response higher the nearer it is to a number of words."""

    words: int = 20
    name: str = "near_length"

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on: count `code` up when you change how they are computed."""
        return {"code": 1, "words": self.words}

    def __call__(self, groups: Sequence[Any], access: Any, done: int) -> Iterator[Any]:
        """Yields the scores of one prompt's responses after the other's, higher is better."""
        for group in groups[done:]:
            texts = [response["text"] for response in group["responses"]]
            yield [[-abs(float(len(text.split()) - self.words)) for text in texts]]


@dataclass(frozen=True)
class Hinge:
    """Has the better response of each pair ahead by a margin, in nats per token."""

    margin: float = 0.5

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 5e-6

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """One loss per prompt."""
        lists = RankedLists.of(candidates)  # makes padding harmless, finds the pairs
        loss = lists.pair_mean((self.margin - differences(lists.mean_logps)).relu())
        return ObjectiveOutput(loss, watch(lists, lists.mean_logps, rank_loss=loss))
