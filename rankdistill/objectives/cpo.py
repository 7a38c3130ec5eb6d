"""CPO: DPO without a reference, held by the likelihood of the best response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_not_negative, check_positive
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class CPO:
    """Contrastive Preference Optimization (Xu et al., 2024, arXiv:2401.08417).

    With ``reward = beta * logp``, over all pairs in which i is strictly better than j, averaged
    within the prompt::

        mean_ij  -log sigmoid(reward_i - reward_j)  +  nll_weight * nll(best)

    Args:
        beta: Above 0, in 1 / nats (paper: 0.1).
        nll_weight: Weight of the best response's negative log-likelihood per token, at least 0 (1
            in the paper; `cpo_alpha` in TRL).

    Sums over tokens without a reference to cancel their length: the shorter of two responses starts
    with the higher reward; watch `length_difference`. No strict pair: the likelihood term alone.

    Differs from the released code: the likelihood is averaged over each best response's tokens, not
    over all tokens of a batch, so that a prompt's loss does not depend on its neighbours.
    """

    beta: float = 0.1
    nll_weight: float = 1.0

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: TRL's."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_not_negative(self, "nll_weight")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        rewards = self.beta * lists.logps
        rank_loss = lists.pair_mean(-logsigmoid(differences(rewards)))
        sft_loss = lists.nll_of_best("mean")
        return lists.output(
            rank_loss + self.nll_weight * sft_loss, rewards, rank_loss=rank_loss, sft_loss=sft_loss
        )
