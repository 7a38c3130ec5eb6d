"""A sampler and a model that is loaded in this process have to mean the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from rankdistill.forward import TokenGroup, bound_layout, collate, response_logps

COMPARED = 4
"""Responses that are compared: one to each of the first prompts."""
TAIL = 6.0
"""The 99th percentile may be as many times the tolerance: rounding in bfloat16 has such a tail."""


class Gap(NamedTuple):
    """Nats by which a sampler and a model differ on a token."""

    mean: float
    p99: float
    """99th percentile."""

    def within(self, tolerance: float) -> bool:
        """Whether it is rounding, by a tolerance of the mean, nats; not where it is no number."""
        return self.mean <= tolerance and self.p99 <= TAIL * tolerance

    def told(self, most: str) -> str:
        """What is said of one that is not; `most` names the tolerance."""
        return (
            f"differ by {self.mean:.3f} nats per token on the same responses, and by "
            f"{self.p99:.3f} at the 99th percentile, above {most} or {TAIL:g} times that"
        )


def gap_between(
    theirs: Iterable[Sequence[float]], model: Any, pairs: Sequence[tuple[list[int], list[int]]]
) -> Gap:
    """By how much log-probabilities differ from a model's, at temperature 1, unfiltered.

    Args:
        theirs: What the sampler says of each response token of `pairs`, see `Sampler`.
        model: Bound.
        pairs: (prompt ids, response ids).
    """
    groups = [TokenGroup(prompt, [response]) for prompt, response in pairs]
    batch = collate(groups, bound_layout(model)).to(next(model.parameters()).device)
    with torch.no_grad():
        ours = response_logps(model, batch).token_logps
    flat = torch.tensor([logp for row in theirs for logp in row], device=ours.device)
    off = (ours - flat).abs()
    return Gap(float(off.mean()), float(off.quantile(0.99)))
