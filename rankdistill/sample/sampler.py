"""What a sampler is, and where its randomness comes from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

from rankdistill.models.model import Loading, Model
from rankdistill.rows import Response
from rankdistill.schema import SamplingParameters

Request = tuple[str, list[int]]
"""A prompt's id and its token ids."""


@dataclass(frozen=True)
class SamplingOptions(SamplingParameters):
    """What is sampled."""

    max_response_tokens: int
    seed: int
    """A response depends on the seed, its prompt's id and its number, and on nothing else."""

    @classmethod
    def of(cls, drawn: SamplingParameters, seed: int, **instead: Any) -> SamplingOptions:
        """The keys of a group such as `sample`, some of them replaced unless by None."""
        same = {own.name: getattr(drawn, own.name) for own in fields(SamplingParameters)}
        given = {name: value for name, value in instead.items() if value is not None}
        return cls(**{**same, **given}, seed=seed)


class Sampler(AbstractContextManager, ABC):
    """Writes responses with a model. One instance serves consecutive stages, then is closed.

    `sample.sampler` names those of the package, and the class of another by `_target_`.
    """

    name: str
    """Part of the identity of what it samples."""

    @property
    def identity(self) -> dict[str, Any]:
        """What its responses depend on beside its name and the arguments of `sample`; hashed."""
        return {}

    def computes_in(self, loading: Loading) -> str | None:
        """The precision that it computes a model in which is loaded so; None: it does not say."""
        return None

    def prepare(self, model: Model, requests: Sequence[Request], options: SamplingOptions) -> None:
        """Load what `sample` needs for these arguments, so that its first response need not wait.

        Raises:
            UserError: as `sample`.
        """

    def prompts_at_once(self, options: SamplingOptions) -> int:
        """How many prompts a process takes at a time where several share the work."""
        return 64

    @abstractmethod
    def sample(
        self,
        model: Model,
        requests: Sequence[Request],
        options: SamplingOptions,
        source: str,
        *,
        done: Collection[str] = (),
    ) -> Iterator[tuple[str, list[Response]]]:
        """(prompt id, its K responses) in the given order, as they are finished.

        Args:
            model: Weights and tokenizer in a folder.
            requests: (prompt id, token ids).
            source: Written into the responses.
            done: Ids of prompts that need no responses any more, since an interrupted call has
                delivered them. With all `requests` and what is done, the rest is sampled in the
                same batches as without the interruption, so not even rounding differs.

        Raises:
            UserError: a prompt and its response do not fit into the model's positions, or the
                model cannot be served.
        """

    def response_logps(
        self, model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterable[list[float]] | None:
        """The log-probability of every token of the responses, nats, at temperature 1, unfiltered.

        Args:
            model: Weights and tokenizer in a folder.
            pairs: (prompt ids, response ids).

        Returns:
            One list per pair, in their order; None: it cannot tell, so that no run notices where
            sampler and model differ.
        """
        return None

    def close(self) -> None:
        """Free memory and processes; the next call starts anew."""

    def __exit__(self, *exception: Any) -> None:
        self.close()


def response_seed(seed: int, prompt_id: str, number: int) -> int:
    """The seed of one response, 63 bits.

    Hashed, since samplers that count up from a seed make the streams of neighbouring seeds overlap.
    """
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
