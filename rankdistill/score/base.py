"""What a scorer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rankdistill.records import Ballot, Group

if TYPE_CHECKING:
    from rankdistill.sample.vllm import VLLMSampler


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
    quantization: str | None = None
    """See `rankdistill.models.load_model`."""
    engine: Callable[[], VLLMSampler] | None = None
    """vLLM for the teacher, started when it is asked for."""


@dataclass(frozen=True)
class Verdict:
    """What a scorer says of one group, where that is more than a value per response."""

    values: list[float]
    """One per response, in their order; NaN where none could be had: nothing is guessed."""
    ballots: list[Ballot] = field(default_factory=list)
    """The orders that the values are made of."""
    aspects: dict[str, list[float]] = field(default_factory=dict)
    """The values that were averaged, one list like `values` per aspect."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """What it took, and what went wrong: calls, tokens, answers that were set aside. Added up."""


class Scorer(Protocol):
    """Gives every response of a group one value; higher is better.

    Implementations are frozen dataclasses, named by `_target_` in `conf/score/`. Beyond this a
    scorer may have `check(judge)`, which refuses at start-up what can be known there; `relative`:
    values are comparable only within a group, and `absolute` is then the scorer to use across
    groups; and `members`, the scorers of an ensemble.
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
    ) -> Iterator[Sequence[list[float] | Verdict]]:
        """The values of each group's responses, some groups at a time, in the given order.

        Args:
            done: Groups at the front that an interrupted call has delivered. With all `groups` and
                what is done, the rest is scored in the same batches as without the interruption.
        """
        ...
