"""ListNet: cross-entropy between the softmax of the scores and the softmax of the rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_positive
from rankdistill.objectives.lists import RankedLists, average, logsumexp


@dataclass(frozen=True)
class ListNet:
    """Listwise softmax (Cao et al., 2007, "Learning to Rank: From Pairwise Approach to Listwise
    Approach", top-one probability) on implicit rewards.

    With ``reward = beta * (logp - reference_logp)`` and ``target = softmax(score /
    score_temperature)`` over the prompt's candidates::

        - sum_i  target_i * log softmax(reward)_i

    The minimum is where reward = score / score_temperature up to a constant per prompt: on the
    list, the policy of KL-regularised reinforcement learning, reference times exp(score /
    (score_temperature * beta)). So unlike the pairwise objectives it says how far apart responses
    are to be, and stops.

    Args:
        beta: Above 0: how strongly the policy is held to the reference.
        score_temperature: Above 0, in the unit of the scores: small trains on the best alone, large
            on all alike. The original's is 1, for scores that are logits.

    The order is that of the ranks: the r-th best candidate has the r-th highest score, and tied
    ones the mean of theirs; so where scores and ranks agree, its own. Policy equal to reference:
    log C. No strict pair: 0, and no gradient. Two candidates: DPO with soft labels.
    """

    beta: float = 0.1
    score_temperature: float = 1.0

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_positive(self, "score_temperature")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        rewards = self.beta * log_ratios
        targets = _log_softmax(_scores_by_rank(lists) / self.score_temperature, lists.mask).exp()
        entropies = -targets * _log_softmax(rewards, lists.mask)
        ranked = lists.mask & lists.better.any(dim=(1, 2))[:, None]
        rank_loss = torch.where(ranked, entropies, 0.0).sum(dim=1)
        return lists.output(rank_loss, rewards, log_ratios=log_ratios, rank_loss=rank_loss)


def _log_softmax(values: Tensor, mask: Tensor) -> Tensor:
    """[B, C] over the real candidates."""
    return values - logsumexp(values, mask)[:, None]


def _scores_by_rank(lists: RankedLists) -> Tensor:
    """[B, C] the scores dealt out again in the order of the ranks; tied candidates get the mean."""
    padded = torch.where(lists.mask, lists.scores, -torch.inf)
    falling = padded.sort(dim=1, descending=True).values
    falling = torch.where(falling.isinf(), 0.0, falling)[:, None, :]
    place = torch.arange(lists.mask.shape[1], device=lists.mask.device)
    first = lists.better.sum(dim=1)[:, :, None]
    size = lists.tied.sum(dim=2)[:, :, None]
    return average(falling, (place >= first) & (place < first + size)).to(lists.logps.dtype)
