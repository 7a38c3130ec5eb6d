"""IPO: the log-ratio margin regressed on a fixed target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_flag, check_positive
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class IPO:
    """Identity Preference Optimization (Azar et al., 2023, arXiv:2310.12036, equation 17).

    With ``ratio = logp - reference_logp``, over all pairs in which i is strictly better than j,
    averaged within the prompt::

        mean_ij  (ratio_i - ratio_j - 1 / (2 * beta))**2

    Args:
        beta: Above 0 (the paper's tau; 0.1): the log-ratios are to end 1 / (2 * beta) nats apart.
        length_normalised: Divide each log-ratio by the response's tokens, as TRL does after the
            authors confirmed it to be what they ran; the target is then in nats per token, so that
            0.1 asks for 5 nats on every token and acts as a constant push.

    Policy equal to reference: 1 / (4 * beta**2). No strict pair: 0. A pair beyond the target is
    pulled back, so IPO does not overfit pairs that are always labelled the same. The loss is in
    nats squared: its gradient is some hundred times DPO's, which gradient clipping sees and Adam
    does not. More than two candidates cannot all be at the target; it settles at the least squares
    compromise.

    Differs from TRL's `ipo`: all strict pairs of a ranking, and not normalised unless asked.
    """

    beta: float = 0.1
    length_normalised: bool = False

    needs_reference: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: that of DPO."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_flag(self, "length_normalised")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats squared and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self)
        ratios = log_ratios / lists.lengths if self.length_normalised else log_ratios
        rank_loss = lists.pair_mean((differences(ratios) - 1 / (2 * self.beta)) ** 2)
        return lists.output(
            rank_loss, self.beta * ratios, log_ratios=log_ratios, rank_loss=rank_loss
        )
