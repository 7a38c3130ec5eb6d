"""What a sampler is, and where its randomness comes from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models.model import Model
from rankdistill.rows import Response

Request = tuple[str, list[int]]
"""A prompt's id and its token ids."""


@dataclass(frozen=True)
class SamplingOptions:
    """What is sampled. Order of the filters, as in vLLM: temperature, then top-k, then top-p.

    Args:
        responses_per_prompt: K, at least 1. The first K responses do not depend on K.
        temperature: 0 takes the most likely token, and all K responses are the same.
        top_p: Smallest set of most likely tokens whose probability reaches it; 1 is off.
        top_k: Number of most likely tokens; 0 is off.
        max_response_tokens: Responses are cut after it and marked `length`.
        seed: A response depends on the seed, its prompt's id and its number, and on nothing else.

    Raises:
        UserError: a value outside its range.
    """

    responses_per_prompt: int
    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("responses_per_prompt", "max_response_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"sample.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("temperature", "top_k"):
            if getattr(self, name) < 0:
                raise UserError(f"sample.{name} is {getattr(self, name)}; it must be at least 0.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sample.top_p is {self.top_p}; it must be above 0 and at most 1.")


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

    def prepare(self, model: Model, requests: Sequence[Request], options: SamplingOptions) -> None:
        """Load what `sample` needs for these arguments, so that its first response need not wait.

        Raises:
            UserError: as `sample`.
        """

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
            One list per pair, in their order; None: it cannot tell, so that PPO does not notice
            where sampler and trainer differ.
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
