"""Which positions see which: the plan of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A prompt and the responses that follow it; a sequence without sharing is a prompt alone."""

    prompt: int
    """Tokens of the prompt: each sees itself and the earlier ones."""
    responses: tuple[int, ...] = ()
    """Tokens of each response: each sees the prompt, itself and the earlier ones of its own."""

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max(self.responses)


@dataclass(frozen=True, eq=False)
class Rows:
    """How the responses of a segment lie: one after another, or as rows of equal length."""

    count: int
    longest: int
    real: Tensor | None
    """[S] place among count * longest of each of the S tokens; None where all places are taken."""

    def spread(self, x: Tensor) -> Tensor:
        """[1, H, S, D] -> [count, H, longest, D], zeros where a response is shorter."""
        x = x[0]
        if self.real is not None:
            rows = x.new_zeros(x.shape[0], self.count * self.longest, *x.shape[2:])
            x = rows.index_copy(1, self.real, x)
        return x.unflatten(1, (self.count, self.longest)).transpose(0, 1)

    def join(self, x: Tensor) -> Tensor:
        """[count, H, longest, D] -> [1, H, S, D]: the inverse of `spread`."""
        x = x.transpose(0, 1).flatten(1, 2)
        return (x if self.real is None else x.index_select(1, self.real))[None]


class AttentionPlan:
    """The segments of a sequence in order, and the indices and masks that are made from them.

    One plan serves all layers and the recomputation of gradient checkpointing, so what it makes is
    kept. No dataclass: FSDP would hand a copy of it to every layer.
    """

    def __init__(self, segments: tuple[Segment, ...]) -> None:
        self.segments = segments
        self.windows: set[int | None] = set()
        """The sliding windows that layers have asked for so far."""
        self._made: dict[tuple, Any] = {}

    @property
    def sizes(self) -> list[int]:
        """Lengths that cut the sequence into prompt, responses, prompt, responses, .."""
        return [n for each in self.segments for n in (each.prompt, sum(each.responses))]

    def rows(self, index: int, device: torch.device) -> Rows:
        """How the responses of segment `index` lie."""

        def make() -> Rows:
            lengths = self.segments[index].responses
            longest = max(lengths)
            if min(lengths) == longest:
                return Rows(len(lengths), longest, None)
            taken = torch.arange(longest) < torch.tensor(lengths)[:, None]
            return Rows(len(lengths), longest, taken.flatten().nonzero()[:, 0].to(device))

        return self.once(("rows", index, device), make)

    def prompt_mask(self, index: int, window: int | None, device: torch.device) -> Tensor | None:
        """[P, P] bool, True is seen; None where plain causal attention is the same."""
        length = self.segments[index].prompt
        if window is None or length <= window:
            return None
        return self._mask(length, length, window, device)

    def response_mask(self, index: int, window: int | None, device: torch.device) -> Tensor:
        """[longest, P + longest] bool, True is seen: the prompt and the response's earlier tokens.

        A sliding window counts positions: a response's first token is next to the prompt's last,
        wherever it lies in the sequence.
        """
        segment = self.segments[index]
        return self._mask(segment.longest, segment.prompt + segment.longest, window, device)

    def reaches(self, index: int, window: int | None) -> bool:
        """Whether the last token of every response still sees the whole prompt."""
        segment = self.segments[index]
        return window is None or segment.prompt + segment.longest <= window

    def _mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """[Q, K] bool for the last Q of K positions."""

        def make() -> Tensor:
            position = torch.arange(keys, device=device)
            distance = position[keys - queries :, None] - position
            seen = distance >= 0
            return seen if window is None else seen & (distance < window)

        return self.once(("mask", queries, keys, window, device), make)

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What `make` returns, made when `key` is asked for the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
