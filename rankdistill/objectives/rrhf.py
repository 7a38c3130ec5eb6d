"""RRHF: rank the responses by length-normalised log-probability, without a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_choice, check_not_negative
from rankdistill.objectives.lists import RankedLists, Reduction, differences


@dataclass(frozen=True)
class RRHF:
    """Rank Responses to align Human Feedback (Yuan et al., 2023, arXiv:2304.05302, eq. 1-5).

    With ``p = logp / length**length_exponent``, summed over all pairs in which i is strictly better
    than j, plus the negative log-likelihood of the best response::

        sum_ij max(0, p_j - p_i) + sft_weight * nll(best)

    A pair in the right order costs nothing and has no gradient, so the rank term only sorts; the
    likelihood term is what keeps the text fluent, and alone it is best-of-n.

    Args:
        sft_weight: Weight of the likelihood term, at least 0 (paper: 1).
        length_exponent: At least 0; 1 averages over tokens (paper), 0 sums.
        sft_reduction: `mean` over the best response's tokens, or `sum` (paper). Summed, the term is
            some hundred times the rank term, and RRHF is nearly best-of-n.

    Ties form no pair and share the likelihood term. One candidate, or all equal: the likelihood
    term alone. Duplicates of a response add 0 to the rank term.

    Differs from the released code (GanjinZero/RRHF, train.py): its lengths are the padded length of
    the batch (the labels' mask is overwritten in place before it is read), its likelihood term is a
    mean over that padded length, a tie for the best goes to the first, and it holds for one prompt
    per device only; the weight of 100 on the rank term, its arguments' default, was not used.
    """

    sft_weight: float = 1.0
    length_exponent: float = 1.0
    sft_reduction: Reduction = "mean"

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 2e-5
    """Suggested peak for AdamW: the paper's."""

    def __post_init__(self) -> None:
        check_not_negative(self, "sft_weight", "length_exponent")
        check_choice(self, "sft_reduction", ("mean", "sum"))

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        values = lists.logps / lists.lengths**self.length_exponent
        rank_loss = lists.pair_sum((-differences(values)).relu())
        sft_loss = lists.nll_of_best(self.sft_reduction)
        return lists.output(
            rank_loss + self.sft_weight * sft_loss, values, rank_loss=rank_loss, sft_loss=sft_loss
        )
