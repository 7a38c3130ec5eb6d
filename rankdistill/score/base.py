"""What a scorer is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rankdistill.records import Group


@dataclass(frozen=True)
class Judge:
    """The teacher that a scorer may ask, and the student whose token ids the responses carry."""

    path: str
    """What `from_pretrained` takes."""
    precision: str
    attn_implementation: str
    trust_remote_code: bool
    layout: str
    """Layout of the grouped forward."""
    writer: str
    """The model whose tokenizer wrote `token_ids`; another tokenizer scores the text."""


class Scorer(Protocol):
    """Gives every response of a group one value; higher is better.

    Implementations are frozen dataclasses, named by `_target_` in `conf/score/`.
    """

    @property
    def name(self) -> str:
        """Key of its values in `Response.scores`."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What its values depend on besides the groups and the judge; hashed."""
        ...

    def __call__(
        self, groups: Sequence[Group], judge: Judge, done: int
    ) -> Iterator[list[list[float]]]:
        """The scores `[group][response]`, some groups at a time, in the given order.

        Args:
            done: Groups at the front that an interrupted call has delivered. With all `groups` and
                what is done, the rest is scored in the same batches as without the interruption.
        """
        ...
