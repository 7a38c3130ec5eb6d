"""KTO: each response for itself, desirable or not, against a common reference point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_not_negative, check_number, check_positive
from rankdistill.objectives.lists import RankedLists, average


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky Optimization (Ethayarajh et al., 2024, arXiv:2402.01306).

    With ``ratio = logp - reference_logp``, averaged over the prompt's labelled candidates::

        desirable:    desirable_weight   * (1 - sigmoid(beta * (ratio - z)))
        undesirable:  undesirable_weight * (1 - sigmoid(beta * (z - ratio)))

    Args:
        beta: Above 0: how strongly the policy is held to the reference (paper: 0.1).
        desirable_weight: At least 0 (paper: 1; weight times count of both kinds within 4 : 3).
        undesirable_weight: As `desirable_weight`.
        score_threshold: In the unit of the scores: desirable is a score of at least this much.
            None: the better half of the prompt's ranking is desirable, those with more candidates
            strictly worse than strictly better, and the worse half likewise not; the middle has no
            label.

    Policy equal to reference: 0.5 with weights of 1. Both sigmoids saturate, so a response that is
    far off is given up and noise in its label does little. By halves, no strict pair: 0; by
    threshold every prompt trains, one response is enough.

    Differs from the paper in the reference point z, max(0, mean ratio), without gradient: over the
    prompt's own candidates, so that a loss depends on its prompt alone. The paper's is over
    mismatched pairs of prompt and response from the whole batch. Candidates that all rise lift z
    along here.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    score_threshold: float | None = None

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_not_negative(self, "desirable_weight", "undesirable_weight")
        if self.score_threshold is not None:
            check_number(self, "score_threshold")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B], between 0 and the larger weight, and the metrics of `watch`."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        reference_point = average(log_ratios.detach(), lists.mask).clamp(min=0)
        gain = self.beta * (log_ratios - reference_point[:, None])
        desirable, undesirable = self._labels(lists)
        losses = torch.where(
            desirable,
            self.desirable_weight * torch.sigmoid(-gain),
            self.undesirable_weight * torch.sigmoid(gain),
        )
        rank_loss = average(losses, desirable | undesirable)
        return lists.output(
            rank_loss,
            self.beta * log_ratios,
            log_ratios=log_ratios,
            rank_loss=rank_loss,
            reference_point=reference_point,
        )

    def _labels(self, lists: RankedLists) -> tuple[Tensor, Tensor]:
        """[B, C] bool each: desirable, undesirable."""
        if self.score_threshold is not None:
            desirable = lists.scores >= self.score_threshold
            return lists.mask & desirable, lists.mask & ~desirable
        worse, better = lists.better.sum(dim=2), lists.better.sum(dim=1)
        return worse > better, worse < better
