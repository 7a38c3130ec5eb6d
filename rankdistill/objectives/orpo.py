"""ORPO: likelihood of the best response and the odds of the better over the worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_not_negative
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class ORPO:
    """Odds Ratio Preference Optimization (Hong et al., 2024, arXiv:2403.07691).

    With the mean log-probability per token ``m = logp / length`` and ``log_odds = m - log(1 -
    exp(m))``, over all pairs in which i is strictly better than j, averaged within the prompt::

        nll(best)  +  odds_weight * mean_ij  -log sigmoid(log_odds_i - log_odds_j)

    Args:
        odds_weight: At least 0: the paper's lambda, the code's alpha, TRL's beta (paper: 0.1; the
            code's own default is 1).

    It is supervised fine-tuning first: it needs no warm-up and no reference, and the odds term only
    keeps the worse responses from rising along. No strict pair: the likelihood term alone. A
    response of probability above exp(-1e-6) per token has the odds of that bound and no gradient
    from them.

    Differs from the released code (xfactlab/orpo): likelihood of the response alone, not of the
    prompt too; log-odds in float32 by log1mexp, where the release takes log(1 - exp(m)) and casts
    to bfloat16.
    """

    odds_weight: float = 0.1

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 5e-6
    """Suggested peak for AdamW: that of the authors' Mistral-ORPO."""

    def __post_init__(self) -> None:
        check_not_negative(self, "odds_weight")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        odds = log_odds(lists.mean_logps)
        rank_loss = lists.pair_mean(-logsigmoid(differences(odds)))
        sft_loss = lists.nll_of_best("mean")
        return lists.output(
            sft_loss + self.odds_weight * rank_loss, odds, rank_loss=rank_loss, sft_loss=sft_loss
        )


def log_odds(logps: Tensor) -> Tensor:
    """log(p / (1 - p)) of log-probabilities, nats; finite, as they are taken as at most -1e-6."""
    logps = logps.clamp(max=-1e-6)
    # Each form of log(1 - exp(x)) where it loses no digits (Maechler, 2012).
    log_of_rest = torch.where(
        logps > -math.log(2), torch.log(-torch.expm1(logps)), torch.log1p(-torch.exp(logps))
    )
    return logps - log_of_rest
