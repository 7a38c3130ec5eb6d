"""SFT: likelihood of the best response; on sampled responses, best-of-n distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_choice
from rankdistill.objectives.lists import RankedLists, Reduction


@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the best response: rejection sampling, or best-of-n fine-tuning.

    What every other objective has to beat: it uses the teacher's choice of the best and nothing
    else of the ranking (for example Touvron et al., 2023, arXiv:2307.09288, section 3.2.3).

    Args:
        reduction: `mean` over the response's tokens, so that every prompt weighs the same, or
            `sum`.

    Ties for the best share the loss. One candidate or all equal: all of them are the best.
    """

    reduction: Reduction = "mean"

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 2e-5
    """Suggested peak for AdamW: that of RRHF, whose likelihood term it is."""

    def __post_init__(self) -> None:
        check_choice(self, "reduction", ("mean", "sum"))

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        sft_loss = lists.nll_of_best(self.reduction)
        return lists.output(sft_loss, lists.mean_logps, sft_loss=sft_loss)
