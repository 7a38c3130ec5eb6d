"""Hinge DPO: a margin of 1 between implicit rewards, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_positive
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class HingeDPO:
    """DPO with a hinge, the normalised SLiC of RSO (Liu et al., 2024, arXiv:2309.06657).

    With ``reward = beta * (logp - reference_logp)``, over all pairs in which i is strictly better
    than j, averaged within the prompt::

        mean_ij  max(0, 1 - (reward_i - reward_j))

    Args:
        beta: Above 0; a pair is done with once its log-ratios are 1 / beta nats apart (paper:
            gamma, 0.05; TRL: 0.1).

    Policy equal to reference: 1. No strict pair: 0. A pair beyond the margin has no gradient, so
    the policy stops there, where DPO goes on.
    """

    beta: float = 0.1

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        rewards = self.beta * log_ratios
        rank_loss = lists.pair_mean((1 - differences(rewards)).relu())
        return lists.output(rank_loss, rewards, log_ratios=log_ratios, rank_loss=rank_loss)
