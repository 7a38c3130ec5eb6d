"""Plackett-Luce DPO: the whole ranking as one draw without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_count, check_positive
from rankdistill.objectives.lists import RankedLists


@dataclass(frozen=True)
class PlackettLuceDPO:
    """DPO under the Plackett-Luce model (Rafailov et al., 2023, arXiv:2305.18290, appendix A.3).

    With ``reward = beta * (logp - reference_logp)``, summed over the candidates k from the best
    down::

        log(exp(reward_k) + sum_i exp(reward_i)) - reward_k          i: strictly worse than k

    Args:
        beta: Above 0: how strongly the policy is held to the reference (paper: 0.1).
        top_m: Only candidates with fewer than `top_m` strictly better ones have a term, at least 1;
            None: all. 1 is a softmax of the best against the rest.

    Two candidates: DPO. Policy equal to reference, without ties: log C!. Ties: tied candidates each
    have their term, against the strictly worse, and never enter each other's denominator. No strict
    pair: 0. The terms of C candidates are summed, so the gradient grows with C.
    """

    beta: float = 0.1
    top_m: int | None = None

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        if self.top_m is not None:
            check_count(self, "top_m")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        rewards = self.beta * log_ratios
        losses = lists.position_losses(rewards, rewards[:, None, :])
        if self.top_m is not None:
            losses = torch.where(lists.better.sum(dim=1) < self.top_m, losses, 0.0)
        rank_loss = losses.sum(dim=1)
        return lists.output(rank_loss, rewards, log_ratios=log_ratios, rank_loss=rank_loss)
