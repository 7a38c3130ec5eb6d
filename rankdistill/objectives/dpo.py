"""DPO and what differs from it in a flag: conservative, length-normalised, reference-free, RPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from rankdistill.objectives.candidates import Candidates, ObjectiveOutput
from rankdistill.objectives.checks import (
    check_flag,
    check_label_smoothing,
    check_not_negative,
    check_positive,
)
from rankdistill.objectives.lists import RankedLists, differences


@dataclass(frozen=True)
class DPO:
    """Direct Preference Optimization (Rafailov et al., 2023, arXiv:2305.18290, equation 7).

    With the implicit reward ``reward = beta * (logp - reference_logp)``, over all pairs in which i
    is strictly better than j, averaged within the prompt::

        mean_ij  -log sigmoid(reward_i - reward_j)

    Args:
        beta: Above 0: how strongly the policy is held to the reference (paper: 0.1; 0.5 for TL;DR).
        label_smoothing: Share of pairs taken to be flipped, in [0, 0.5): conservative DPO,
            ``(1 - e) * loss(i, j) + e * loss(j, i)`` (Mitchell, 2023).
        reference_free: Take a uniform reference: ``reward = beta * logp``; none is computed.
        length_normalised: Divide each log-ratio by the response's tokens; beta is then some 50
            times larger (Tulu 3, arXiv:2411.15124: 5). TRL calls it `sigmoid_norm`.
        nll_weight: Weight, at least 0, of the best response's negative log-likelihood per token,
            added once per prompt: RPO (Pang et al., 2024, arXiv:2404.19733).

    Policy equal to reference: log 2 for every prompt that has a strict pair. No strict pair: 0.
    The gradients of a pair are opposite, so DPO is blind to both log-probabilities falling
    together; watch `chosen_log_ratio`. Duplicates: a pair of equal responses with different scores
    pays log 2 and has no gradient.

    Differs from the released code (eric-mitchell/direct-preference-optimization): all strict pairs
    of a ranking, not one; a tie is no pair, where the release lets the second one win.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    reference_free: bool = False
    length_normalised: bool = False
    nll_weight: float = 0.0

    learning_rate: ClassVar[float] = 1e-6
    """Suggested peak for AdamW: the paper's."""

    @property
    def needs_reference(self) -> bool:
        """Whether `reference_logps` are read."""
        return not self.reference_free

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_label_smoothing(self)
        check_not_negative(self, "nll_weight")
        check_flag(self, "reference_free", "length_normalised")

    def __call__(self, candidates: Candidates) -> ObjectiveOutput:
        """Loss [B] in nats and the metrics of `watch`, `rank_loss` and `sft_loss` among them."""
        lists = RankedLists.of(candidates)
        log_ratios = lists.log_ratios(self, reference_free=self.reference_free)
        rewards = self.beta * (log_ratios / lists.lengths if self.length_normalised else log_ratios)
        margins = differences(rewards)
        flipped = self.label_smoothing
        rank_loss = lists.pair_mean(
            -(1 - flipped) * logsigmoid(margins) - flipped * logsigmoid(-margins)
        )
        sft_loss = lists.nll_of_best("mean")
        return lists.output(
            rank_loss + self.nll_weight * sft_loss,
            rewards,
            log_ratios=log_ratios,
            rank_loss=rank_loss,
            sft_loss=sft_loss,
        )
