"""Which token of a concatenated sequence sees which, without a mask over the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A prompt and the responses that follow it; a sequence without sharing is a prompt alone."""

    start: int
    """Where the prompt begins in the sequence."""
    prompt: int
    """Tokens of the prompt: each sees itself and the earlier ones."""
    responses: tuple[int, ...]
    """Tokens of each response: each sees the prompt, itself and the earlier ones of its response."""

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max(self.responses, default=0)

    @property
    def ragged(self) -> bool:
        """Whether the responses differ in length."""
        return min(self.responses, default=0) != self.longest


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The segments of a sequence, in order and without gaps, and the indices and masks made from them.

    One plan serves all layers and the recomputation of gradient checkpointing; what it makes is kept.
    """

    segments: tuple[Segment, ...]
    _made: dict = field(default_factory=dict, repr=False)

    def gather(self, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """For ragged responses of segment `index`: how to pad them and how to get them back.

        Returns:
            [C * longest] offset among the segment's response tokens for each place of the padded block
            (padding repeats the last token), and [sum of lengths] place of each response token in it.
        """

        def make() -> tuple[Tensor, Tensor]:
            segment = self.segments[index]
            lengths = torch.tensor(segment.responses)
            place = torch.arange(segment.longest)
            starts = lengths.cumsum(0) - lengths
            pad = starts[:, None] + torch.minimum(place, lengths[:, None] - 1)
            real = (place < lengths[:, None]).flatten().nonzero().squeeze(1)
            return pad.flatten().to(device), real.to(device)

        return self._once(("gather", index, device), make)

    def prompt_mask(self, index: int, window: int | None, device: torch.device) -> Tensor | None:
        """[P, P] bool, True is seen; None where plain causal attention is the same."""
        length = self.segments[index].prompt
        if window is None or length <= window:
            return None

        def make() -> Tensor:
            position = torch.arange(length, device=device)
            return _seen(position, position, window)

        return self._once(("prompt", index, window, device), make)

    def response_mask(self, index: int, window: int | None, device: torch.device) -> Tensor:
        """[longest, P + longest] bool, True is seen: the prompt and the response's own earlier tokens.

        A sliding window counts positions: a response's first token is next to the prompt's last,
        wherever it lies in the sequence.
        """

        def make() -> Tensor:
            segment = self.segments[index]
            position = torch.arange(segment.prompt + segment.longest, device=device)
            return _seen(position[segment.prompt :], position, window)

        return self._once(("response", index, window, device), make)

    def _once(self, key: tuple, make):
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _seen(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """[Q, K] bool: key at or before the query and fewer than `window` positions away."""
    distance = query[:, None] - key[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
