"""Who wrote a response ranks it: `score=writer`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import plain
from rankdistill.rows import Group
from rankdistill.score.schema import WriterOptions
from rankdistill.score.scorer import Scorer, TeacherAccess


@dataclass(frozen=True)
class ByWriter(WriterOptions, Scorer):
    """The place of a response's writer in an order: the strongest has the highest value.

    Pairs of a stronger and a weaker model need no judge (delta learning, Geng et al. 2025,
    arXiv:2507.06187). Responses of one writer are tied, those of a writer outside of the order have
    no value.
    """

    name: ClassVar[str] = "writer"
    by_rule: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    reads_thoughts: ClassVar[bool] = True

    @property
    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, "code": 1, "order": plain(self.order)}

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[list[float]]]:
        """The values of one group after the other; see `Scorer`.

        Raises:
            UserError: fewer than two of the order's writers wrote.
        """
        order = list(self.order or [])
        if groups:
            self.check_order({r["source"] for group in groups for r in group["responses"]})
        values = {writer: float(len(order) - place) for place, writer in enumerate(order)}
        for group in groups[done:]:
            yield [[values.get(response["source"], math.nan) for response in group["responses"]]]

    def check_order(self, wrote: set[str]) -> None:
        """UserError: fewer than two of those who write are in the order."""
        order = list(self.order or [])
        if len(wrote.intersection(order)) < 2:
            raise UserError(
                f"score.order names the writers {', '.join(order)}, and the responses are by "
                f"{', '.join(sorted(wrote))}: name at least two of these."
            )
