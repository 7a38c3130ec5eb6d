"""LiPO-lambda: pairs weighted by what swapping them would change in the ranking's gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_choice, check_positive
from rankdistill.objectives.lists import RankedLists, average, differences


@dataclass(frozen=True)
class LiPO:
    """Listwise Preference Optimization, lambda (Liu et al., 2024, arXiv:2402.01878).

    With ``reward = beta * (logp - reference_logp)``, summed over all pairs in which i is strictly
    better than j::

        sum_ij  |2**label_i - 2**label_j| * |1 / D(place_i) - 1 / D(place_j)|
                * -log sigmoid(reward_i - reward_j)               D(place) = log(1 + place)

    where `place` is 1 for the candidate that the policy's reward puts first. The weights carry no
    gradient.

    Args:
        beta: Above 0: how strongly the policy is held to the reference (paper: 0.05).
        labels: A label is the chance, in [0, 1], to win against a random candidate of the prompt,
            itself included. `ranks`: a win counts 1 and a tie 1/2. `scores`: a win counts
            sigmoid(|score_i - score_j|), the paper's for a Bradley-Terry scorer.
        discount: `log`, the paper's, or `log2`, that of DCG; they differ by the factor log 2.

    Candidates with equal rewards, as all are while the policy equals the reference, take the
    expected weight over all orders of their block; so the first step has a gradient. No strict
    pair: 0. Two candidates: DPO times a constant.

    Differs from the paper: labels come from the ranks by default, since 2**score of raw scores
    explodes; the order is always that of the ranks.
    """

    beta: float = 0.05
    labels: Literal["ranks", "scores"] = "ranks"
    discount: Literal["log", "log2"] = "log"

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO; the paper's 2e-5 is Adafactor's, on T5."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_choice(self, "labels", ("ranks", "scores"))
        check_choice(self, "discount", ("log", "log2"))

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        rewards = self.beta * log_ratios
        gains = differences(torch.exp2(self._win_chances(lists))).abs()
        weights = gains * self._discount_gaps(rewards.detach(), lists.mask)
        rank_loss = lists.pair_sum(-weights * logsigmoid(differences(rewards)))
        return lists.output(rank_loss, rewards, log_ratios=log_ratios, rank_loss=rank_loss)

    def _win_chances(self, lists: RankedLists) -> Tensor:
        """[B, C] the labels."""
        real = lists.mask[:, :, None] & lists.mask[:, None, :]
        # 1 for a win, -1 for a loss, 0 for a tie.
        wins = lists.better.to(lists.logps.dtype)
        order = wins - wins.transpose(1, 2)
        chances = (
            (order + 1) / 2 if self.labels == "ranks" else (order * lists.score_gaps).sigmoid()
        )
        return average(chances, real)

    def _discount_gaps(self, rewards: Tensor, mask: Tensor) -> Tensor:
        """[B, C, C] expected |1 / D(place_i) - 1 / D(place_j)| over the orders of equal rewards."""
        index = torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)
        log = torch.log if self.discount == "log" else torch.log2
        gap, real = differences(rewards), mask[:, :, None] & mask[:, None, :]
        first = ((gap < 0) & real).sum(dim=2)[:, :, None]
        size = ((gap == 0) & real).sum(dim=2)[:, :, None]
        # [B, C, places]: the places that the block of a candidate with its equals fills.
        places = (index >= first) & (index < first + size)
        discounts = torch.where(places, 1 / log(index + 2), 0.0)
        mean = discounts.sum(dim=2) / size[:, :, 0].clamp(min=1)
        # Mean of |d_a - d_b| over two different places of a block, in which d falls with the place.
        signs = size - 1 - 2 * (index - first)
        within = 2 * (signs * discounts).sum(dim=2, keepdim=True) / (size * (size - 1)).clamp(min=1)
        return torch.where(gap == 0, within, differences(mean).abs())
