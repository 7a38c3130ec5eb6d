"""What a scorer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rankdistill.rows import Ballot, Group, Message

if TYPE_CHECKING:  # a model brings torch, and the schemas of scorers are read without it
    from rankdistill.models.model import Model
    from rankdistill.sample.vllm import VLLMSampler


@dataclass(frozen=True)
class TeacherAccess:
    """The teacher that a scorer may ask, and the student whose token ids the responses carry."""

    teacher: Model
    writer: Model
    """The model whose tokenizer wrote `token_ids`; another tokenizer scores the text."""
    layout: str = "shared"
    """Layout of the grouped forward."""
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


@dataclass(frozen=True)
class Questions:
    """What a model is asked about one group, where it writes its judgement."""

    count: int
    """At the most."""
    shown: int
    """Responses that one question shows."""
    answer_tokens: int
    """Tokens of an answer, at the most."""
    tensor_parallel_size: int = 1
    """GPUs that the model is cut over."""


class Scorer(ABC):
    """Gives every response of a group one value; higher is better.

    Implementations are frozen dataclasses, named by `_target_` in `conf/score/`.
    """

    uses_teacher: bool = False
    """Whether its values are the run's teacher's: they are then made again for another one."""
    on_this_machine: bool = False
    """Whether it needs the memory that a sampler's engine takes."""
    relative: bool = False
    """Whether its values compare the responses of one group only; see `absolute`."""
    by_rule: bool = False
    """Whether a rule gives its values, and no model's opinion."""
    reads_thoughts: bool = False
    """Whether it reads what a response thought as well; others are shown its answer alone."""
    verifies: bool = False
    """Whether a value says that a response is right, 1 or 0, or which share of it is."""
    rule: str | None = None
    """What the report calls the rule of one that `verifies`; None: its name."""
    is_likelihood: bool = False
    """Whether a value is the log-probability of the response given the prompt: one that trains a
    re-ranker is asked for the query given the passage."""
    checks_demands: bool = False
    """Whether it checks the demands of a prompt, of which prompts then need some."""
    model: str | None = None
    """A model of its own that it loads on this machine, as the person calls it. It then has
    `precision` and `trust_remote_code` as well, for `rankdistill.plan`."""
    max_batch_tokens: int = 4096
    """Tokens that go through its model at once."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Key of its values in `Response.scores`."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its values depend on besides the groups and the teacher; hashed."""

    @abstractmethod
    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int
    ) -> Iterator[Sequence[list[float] | Verdict]]:
        """The values of each group's responses, some groups at a time, in the given order.

        Args:
            done: Groups at the front that an interrupted call has delivered. With all `groups` and
                what is done, the rest is scored in the same batches as without the interruption.
        """

    @property
    def runs_here(self) -> bool:
        """Whether a model of this machine gives its values: its own `model`, else the teacher."""
        return self.model is not None or self.uses_teacher

    def questions(self, responses: int) -> Questions | None:
        """What its model is asked about a group of so many responses; None: it reads them."""
        return None

    @property
    def without_answer(self) -> float | None:
        """The value of a response that ended before its thought did; None: as the scorer says."""
        return 0.0 if self.verifies else None

    @property
    def absolute(self) -> Scorer:
        """The scorer to take where the responses of different groups are compared."""
        return self

    @property
    def members(self) -> dict[str, Scorer]:
        """The scorers that it consists of, by name; each is a stage output of its own."""
        return {self.name: self}

    def about(self, teacher: str) -> str:
        """What its values are, in the report: ``likelihood under <teacher>``.

        Args:
            teacher: The run's, as the person calls it.
        """
        return f"{self.name} under {teacher}" if self.uses_teacher else self.name

    def check(self, access: TeacherAccess) -> None:  # noqa: B027  (most have nothing to refuse)
        """Refuse at start-up what can be known there. UserError: it cannot work."""

    def check_conversations(  # noqa: B027
        self, conversations: Sequence[list[Message]], access: TeacherAccess
    ) -> None:
        """Refuse prompts that it could not read, when they are known. UserError: it could not.

        Args:
            conversations: Prompts, one for each order of roles that there is.
        """

    def check_columns(self, columns: Sequence[Mapping[str, Any]]) -> None:  # noqa: B027
        """Refuse what it could not read in the kept columns of prompts. UserError: it could not."""
