"""PRO: at every position a softmax over what is left of the ranking, sharpened by score gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_flag, check_not_negative
from rankdistill.objectives.lists import RankedLists


@dataclass(frozen=True)
class PRO:
    """Preference Ranking Optimization (Song et al., AAAI 2024, arXiv:2306.17492, equations 4-9).

    With ``s = logp / length``, summed over every candidate k that has at least one strictly worse::

        log(exp(s_k / T_k) + sum_i exp(s_i / T_ki)) - s_k / T_k          i: strictly worse than k
        1 / T_ki = |score_k - score_i|,   1 / T_k = the largest of them

    plus ``sft_weight * (C - 1)**2`` times the summed negative log-likelihood of the best response,
    where C counts the prompt's real candidates.

    Args:
        sft_weight: At least 0 (paper: 0.05; the released script's default is 2).
        reward_temperature: Whether score gaps are the inverse temperatures; False sets all to 1.

    The temperatures are in the scorer's unit: the paper's are a reward model's logits. Standardise
    judge scores over the whole set (the rank stage's work) before they come here. Log-probabilities
    are negative and T differs within a position, so with T a right order can still cost much, and
    the loss does not go to 0 as the margins grow. The order is that of the ranks and the gaps count
    by their size alone, should scores and ranks ever disagree.

    Ties: tied candidates never enter each other's denominator. No strict pair: 0 and no gradient
    from the ranking. One candidate: the loss is 0, since (C - 1)**2 is.

    Differs from the released code (AlibabaResearch/DAMO-ConvAI, PRO): a true logsumexp (its
    ``log(1e-10 + sum(exp))`` fails once all s / T are below -23), tokens counted without the pad
    token that it adds to shorter responses, candidates in any order rather than sorted.
    """

    sft_weight: float = 0.05
    reward_temperature: bool = True

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 5e-6
    """Suggested peak for AdamW: the paper's."""

    def __post_init__(self) -> None:
        check_not_negative(self, "sft_weight")
        check_flag(self, "reward_temperature")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        rank_loss = self._rank_loss(lists)
        sft_loss = lists.nll_of_best("sum")
        others = (lists.mask.sum(dim=1) - 1).clamp(min=0).to(sft_loss.dtype)
        return lists.output(
            rank_loss + self.sft_weight * others**2 * sft_loss,
            lists.mean_logps,
            rank_loss=rank_loss,
            sft_loss=sft_loss,
        )

    def _rank_loss(self, lists: RankedLists) -> Tensor:
        """[B] the sum over positions."""
        gaps = lists.score_gaps if self.reward_temperature else torch.ones_like(lists.score_gaps)
        largest = torch.where(lists.better, gaps, 0.0).amax(dim=2)
        values = lists.mean_logps
        return lists.position_losses(values * largest, values[:, None, :] * gaps).sum(dim=1)
