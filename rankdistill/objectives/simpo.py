"""SimPO: the mean log-probability as the reward, with a target margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import check_not_negative, check_positive
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class SimPO:
    """Simple Preference Optimization (Meng et al., 2024, arXiv:2405.14734, equation 6).

    With ``reward = beta * logp / length``, over all pairs in which i is strictly better than j,
    averaged within the prompt::

        mean_ij  -log sigmoid(reward_i - reward_j - beta * gamma_beta_ratio)

    Args:
        beta: Above 0, the slope of the sigmoid in 1 / (nats per token) (code: 2; paper's runs: 2 to
            10).
        gamma_beta_ratio: Target margin in nats per token, at least 0 (code: 0.25; paper's runs: 0.1
            to 0.8). The paper's gamma is beta times this, and so is TRL's `simpo_gamma`.

    Nothing holds the policy where it started: no reference and no likelihood term, so it can drift
    into text that is likely and empty; watch `chosen_mean_logp`, and keep the learning rate low. No
    strict pair: 0. Duplicates with different scores pay log(1 + exp(gamma)) and have no gradient.
    """

    beta: float = 2.0
    gamma_beta_ratio: float = 0.25

    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: the upper end of the paper's 3e-7 to 1e-6."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_not_negative(self, "gamma_beta_ratio")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` among them."""
        lists = RankedLists.of(candidates)
        rewards = self.beta * lists.mean_logps
        gamma = self.beta * self.gamma_beta_ratio
        rank_loss = lists.pair_mean(-logsigmoid(differences(rewards) - gamma))
        return lists.output(rank_loss, rewards, rank_loss=rank_loss)
