"""SLiC-HF: a margin between the log-probabilities of whole responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_not_negative
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class SLiC:
    """Sequence Likelihood Calibration with human feedback (Zhao et al., 2023, arXiv:2305.10425).

    Over all pairs in which i is strictly better than j, averaged within the prompt, plus the summed
    negative log-likelihood of the best response::

        mean_ij  max(0, delta - logp_i + logp_j)  +  regulariser * nll(best)

    Args:
        delta: Margin in nats per response, at least 0 (ContextualAI/HALOs: 1).
        regulariser: Weight of the likelihood term, at least 0 (HALOs: 0.1).

    Sums over tokens, not means: a longer response has the lower log-probability, so a better one
    that is longer violates the margin at the start and the gradient favours length in whichever
    direction the teacher does; watch `length_difference`. No strict pair: the likelihood term
    alone.

    Differs from the paper: the likelihood term is on the best-ranked response, where the paper's
    target is that of supervised fine-tuning.
    """

    delta: float = 1.0
    regulariser: float = 0.1

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of CPO, its smooth relative."""

    def __post_init__(self) -> None:
        check_not_negative(self, "delta", "regulariser")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        rank_loss = lists.pair_mean((self.delta - differences(lists.logps)).relu())
        sft_loss = lists.nll_of_best("sum")
        return lists.output(
            rank_loss + self.regulariser * sft_loss,
            lists.logps,
            rank_loss=rank_loss,
            sft_loss=sft_loss,
        )
