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
TOLERANCES = {"float32": 0.01, "float16": 0.02, "bfloat16": 0.1}
"""Nats per token that two computations in a precision may differ by on average. Rounding in
bfloat16 comes to hundredths, in float16 to an eighth of that; other weights to tenths and more."""


def tolerance_of(*precisions: str | None) -> float:
    """By the coarsest of the precisions; the largest where one is not known."""
    most = max(TOLERANCES.values())
    return max(TOLERANCES.get(name or "", most) for name in precisions)


class Gap(NamedTuple):
    """Nats by which a sampler and a model differ on a token."""

    mean: float
    p99: float
    """99th percentile."""

    def beyond(
        self, sampler: str | None, model: str | None, tolerance: float | None = None
    ) -> str | None:
        """What differs, as the end of a sentence; None: it is rounding.

        Args:
            sampler, model: The precisions that they compute in; None: it is not known.
            tolerance: Of the mean, nats; None: `tolerance_of` the two.
        """
        most = tolerance_of(sampler, model) if tolerance is None else tolerance
        if self.mean <= most and self.p99 <= TAIL * most:  # NaN is not
            return None
        known = [name or "an unknown precision" for name in (sampler, model)]
        computed = " and ".join(dict.fromkeys(known))
        return (
            f"differ by {self.mean:.3f} nats per token on the same responses, and by "
            f"{self.p99:.3f} at the 99th percentile, above {most:g} or {TAIL:g} times that "
            f"(computed in {computed})"
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
