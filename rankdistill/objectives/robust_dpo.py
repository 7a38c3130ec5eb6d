"""Robust DPO: an unbiased DPO loss when a known share of the labels is flipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_label_smoothing, check_positive
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class RobustDPO:
    """Provably robust DPO (Chowdhury et al., 2024, arXiv:2403.00409).

    With ``reward = beta * (logp - reference_logp)``, ``loss(i, j) = -log sigmoid(reward_i -
    reward_j)`` and e = label_smoothing, over all pairs in which i is strictly better than j,
    averaged within the prompt::

        mean_ij  ((1 - e) * loss(i, j) - e * loss(j, i)) / (1 - 2 * e)

    Its expectation over labels that are flipped with probability e is DPO's loss on the true
    labels.

    Args:
        beta: Above 0: how strongly the policy is held to the reference (paper: 0.1).
        label_smoothing: Probability, in [0, 0.5), that a pair's order is wrong (paper: 0.1); 0 is
            DPO.

    Policy equal to reference: log 2. No strict pair: 0. The loss has no lower bound and its
    gradient never dies: a pair is always pushed apart by at least beta * e / (1 - 2 * e), so unlike
    conservative DPO (`DPO.label_smoothing`) it does not hold margins back.

    Differs from TRL's `robust`: all strict pairs of a ranking.
    """

    beta: float = 0.1
    label_smoothing: float = 0.1

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_label_smoothing(self)

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        rewards = self.beta * log_ratios
        margins = differences(rewards)
        flipped = self.label_smoothing
        rank_loss = lists.pair_mean(
            (flipped * logsigmoid(-margins) - (1 - flipped) * logsigmoid(margins))
            / (1 - 2 * flipped)
        )
        return lists.output(rank_loss, rewards, log_ratios=log_ratios, rank_loss=rank_loss)
