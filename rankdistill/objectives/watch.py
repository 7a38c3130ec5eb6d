"""The figures a person watches while a ranking is learned. The same code for every objective."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.objectives.lists import RankedLists, average, differences


@torch.no_grad()
def watch(
    lists: RankedLists,
    values: Tensor,
    *,
    log_ratios: Tensor | None = None,
    **parts: Tensor,
) -> dict[str, Tensor]:
    """What there is to see of B ranked lists; every metric is [B], detached and finite.

    Args:
        lists: The candidates.
        values: [B, C] what the objective ranks by, in its own unit: the beta-scaled log-ratio
            (implicit reward) in DPO, the length-normalised log-probability in RRHF.
        log_ratios: [B, C] policy minus reference, nats, where the objective has a reference;
            `values` are then the implicit rewards.
        parts: [B] terms of the loss before their weights (`rank_loss`, `sft_loss`).

    Returns:
        - `rank_accuracy`: share of strict pairs that the policy's mean log-probability per token
          orders as the teacher does, the same yardstick for all objectives. A tie of the policy
          counts half; a prompt without a strict pair reports 0.5.
        - `margin`, `margin_accuracy`: mean difference of `values` over strict pairs, and the
          accuracy of their order. 0 and 0.5 without a strict pair.
        - `chosen_mean_logp`, `rejected_mean_logp`: nats per token of the best and of the worst,
          apart, since the margin can grow while both fall. Tied candidates are averaged.
        - `length_difference`: tokens, best minus worst.
        - `tie_share`: share of the pairs of real candidates that tie.
        - with a reference `chosen_log_ratio`, `rejected_log_ratio` (nats) and `chosen_reward`,
          `rejected_reward`.
        - the parts.
    """
    best, worst = lists.best, lists.worst
    metrics = {
        "rank_accuracy": _accuracy(lists, lists.mean_logps),
        "margin_accuracy": _accuracy(lists, values),
        "margin": lists.pair_mean(differences(values)),
        "chosen_mean_logp": average(lists.mean_logps, best),
        "rejected_mean_logp": average(lists.mean_logps, worst),
        "length_difference": average(lists.lengths, best) - average(lists.lengths, worst),
        "tie_share": _tie_share(lists),
    }
    if log_ratios is not None:
        metrics |= {
            "chosen_log_ratio": average(log_ratios, best),
            "rejected_log_ratio": average(log_ratios, worst),
            "chosen_reward": average(values, best),
            "rejected_reward": average(values, worst),
        }
    metrics |= parts
    return {name: metric.detach() for name, metric in metrics.items()}


def _accuracy(lists: RankedLists, values: Tensor) -> Tensor:
    """[B] share of strict pairs whose better one has the higher value; equal values count half."""
    right = (differences(values).sign() + 1) / 2
    return torch.where(lists.better.any(dim=(1, 2)), lists.pair_mean(right), 0.5)


def _tie_share(lists: RankedLists) -> Tensor:
    """[B] share of the unordered pairs of real candidates that tie; 0 with fewer than two."""
    real = lists.mask.sum(dim=1).to(lists.logps.dtype)
    pairs = real * (real - 1) / 2
    return (pairs - lists.better.sum(dim=(1, 2))) / pairs.clamp(min=1)
