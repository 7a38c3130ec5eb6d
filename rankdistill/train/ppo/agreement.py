"""Sampler and trainer have to mean the same policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models.model import Model
from rankdistill.sample.agreement import COMPARED, Gap, gap_between
from rankdistill.sample.sampler import Sampler


def disagreement(
    sampler: Sampler,
    exported: Model,
    policy: Any,
    groups: Sequence[TokenGroup],
    autocast: AbstractContextManager,
) -> Gap | None:
    """By how much sampler and trainer differ about the first response to the first few prompts.

    None where the sampler cannot tell log-probabilities.

    Args:
        exported: The policy's weights, as the sampler got them.
        policy: Bound.
        autocast: The precision that it trains in.
    """
    pairs = [(list(g.prompt), list(g.responses[0])) for g in groups[:COMPARED]]
    theirs = sampler.response_logps(exported, pairs)
    if theirs is None:
        return None
    with autocast:
        return gap_between(theirs, policy, pairs)


def check_agreement(gap: Gap | None, tolerance: float, sampler: str, iteration: int) -> None:
    """Stops a run whose sampler writes with another policy than the one that is trained.

    Raises:
        UserError: the disagreement is above the tolerance, or not a number.
    """
    if gap is None or gap.within(tolerance):
        return
    raise UserError(
        f"In iteration {iteration + 1} the sampler '{sampler}' and the trainer "
        f"{gap.told(f'train.sampler_tolerance={tolerance:g}')}, so PPO would learn from another "
        "policy's responses: sample in the trainer's precision (sample.vllm.dtype), with "
        "sample=transformers, or in float32 throughout."
    )
