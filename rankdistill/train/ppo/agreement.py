"""Sampler and trainer have to mean the same policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bound_layout, collate, response_logps
from rankdistill.models.model import Model
from rankdistill.sample.sampler import Sampler

COMPARED = 4
"""Responses that are compared in an iteration."""
TAIL = 6.0
"""The 99th percentile may be as many times the tolerance: rounding in bfloat16 has such a tail."""


class Gap(NamedTuple):
    """Nats by which sampler and trainer differ on a token."""

    mean: float
    p99: float
    """99th percentile."""


def disagreement(
    sampler: Sampler,
    exported: Model,
    policy: Any,
    groups: Sequence[TokenGroup],
    autocast: AbstractContextManager,
) -> Gap | None:
    """By how much sampler and trainer differ about the same responses.

    Both at temperature 1, unfiltered, on the first response to the first few prompts. None where
    the sampler cannot tell log-probabilities.

    Args:
        exported: The policy's weights, as the sampler got them.
        policy: Bound.
        autocast: The precision that it trains in.
    """
    some = [TokenGroup(g.prompt, g.responses[:1]) for g in groups[:COMPARED]]
    pairs = [(list(g.prompt), list(g.responses[0])) for g in some]
    theirs = sampler.response_logps(exported, pairs)
    if theirs is None:
        return None
    batch = collate(some, bound_layout(policy)).to(policy.device)
    with torch.no_grad(), autocast:
        ours = response_logps(policy, batch).token_logps
    flat = torch.tensor([logp for row in theirs for logp in row], device=ours.device)
    off = (ours - flat).abs()
    return Gap(float(off.mean()), float(off.quantile(0.99)))


def check_agreement(gap: Gap | None, tolerance: float, sampler: str, iteration: int) -> None:
    """Stops a run whose sampler writes with another policy than the one that is trained.

    Raises:
        UserError: the disagreement is above the tolerance, or not a number.
    """
    if gap is None or (gap.mean <= tolerance and gap.p99 <= TAIL * tolerance):
        return
    raise UserError(
        f"In iteration {iteration + 1} the sampler '{sampler}' and the trainer differ by "
        f"{gap.mean:.3f} nats per token on the same responses, and by {gap.p99:.3f} at the 99th "
        f"percentile, above train.sampler_tolerance={tolerance:g} or {TAIL:g} times that, so "
        "PPO would learn from another policy's responses: sample in the trainer's precision "
        "(sample.vllm.dtype), with sample=transformers, or in float32 throughout."
    )
