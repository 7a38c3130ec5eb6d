"""Sampler and trainer have to mean the same policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bound_layout, collate, response_logps
from rankdistill.models.model import Model
from rankdistill.sample.sampler import Sampler

COMPARED = 4
"""Responses that are compared in an iteration."""


def disagreement(
    sampler: Sampler, exported: Model, policy: Any, groups: Sequence[TokenGroup]
) -> float | None:
    """Nats per token by which sampler and trainer differ on average about the same responses.

    Both at temperature 1, unfiltered, on the first response to the first few prompts. None where
    the sampler cannot tell log-probabilities.

    Args:
        exported: The policy's weights, as the sampler got them.
        policy: Bound.
    """
    some = [TokenGroup(g.prompt, g.responses[:1]) for g in groups[:COMPARED]]
    pairs = [(list(g.prompt), list(g.responses[0])) for g in some]
    theirs = sampler.response_logps(exported, pairs)
    if theirs is None:
        return None
    batch = collate(some, bound_layout(policy)).to(policy.device)
    with torch.no_grad():
        ours = response_logps(policy, batch).token_logps
    flat = torch.tensor([logp for row in theirs for logp in row], device=ours.device)
    return float((ours - flat).abs().mean())


def check_agreement(gap: float | None, tolerance: float, sampler: str, iteration: int) -> None:
    """Stops a run whose sampler writes with another policy than the one that is trained.

    Raises:
        UserError: the disagreement is above the tolerance, or not a number.
    """
    if gap is None or gap <= tolerance:
        return
    raise UserError(
        f"In iteration {iteration + 1} the sampler '{sampler}' and the trainer differ by {gap:.3f} "
        f"nats per token on the same responses, above train.sampler_tolerance={tolerance:g}, so "
        "PPO would learn from another policy's responses: sample in the trainer's precision "
        "(sample.vllm.dtype), or with sample=transformers."
    )
