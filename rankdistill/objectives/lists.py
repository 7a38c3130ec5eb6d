"""Ranked lists as objectives see them, and what is watched of each while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.objectives.candidates import Candidates, ObjectiveOutput

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class RankedLists:
    """B ranked lists of C candidates. Padding holds logp 0, length 1, score 0 and is in no pair."""

    logps: Tensor
    """[B, C] nats, float32 or float64; the gradient to padding is exactly 0, whatever it held."""
    lengths: Tensor
    """[B, C] tokens as a float, at least 1."""
    scores: Tensor
    """[B, C] the scorer's scale."""
    mask: Tensor
    """[B, C] bool, False is padding."""
    better: Tensor
    """[B, C, C] bool, the strict pairs: `better[b, i, j]`: both real and i better than j."""
    reference_logps: Tensor | None
    """[B, C] nats, no gradient."""

    @classmethod
    def of(cls, candidates: Candidates) -> RankedLists:
        """Reads `candidates`. The order is that of the ranks if given, else that of the scores."""
        _check_shapes(candidates)
        mask = candidates.mask.bool()
        dtype = torch.promote_types(candidates.logps.dtype, torch.float32)
        if candidates.ranks is None:
            first_is_better = candidates.scores[:, :, None] > candidates.scores[:, None, :]
        else:
            first_is_better = candidates.ranks[:, :, None] < candidates.ranks[:, None, :]
        reference = candidates.reference_logps
        return cls(
            logps=torch.where(mask, candidates.logps.to(dtype), 0.0),
            lengths=torch.where(mask, candidates.lengths.to(dtype), 1.0).clamp(min=1.0),
            # Never narrowed: the small gaps of large scores would be lost.
            scores=torch.where(
                mask, candidates.scores.to(torch.promote_types(candidates.scores.dtype, dtype)), 0.0
            ),
            mask=mask,
            better=first_is_better & mask[:, :, None] & mask[:, None, :],
            reference_logps=(
                None if reference is None else torch.where(mask, reference.detach().to(dtype), 0.0)
            ),
        )

    @property
    def mean_logps(self) -> Tensor:
        """[B, C] log-probability per token."""
        return self.logps / self.lengths

    @property
    def best(self) -> Tensor:
        """[B, C] bool: real and no candidate is better. All of a tie; everyone if all are equal."""
        return self.mask & ~self.better.any(dim=1)

    @property
    def worst(self) -> Tensor:
        """[B, C] bool: real and no candidate is worse. All of a tie; everyone if all are equal."""
        return self.mask & ~self.better.any(dim=2)

    @property
    def tied(self) -> Tensor:
        """[B, C, C] bool: both real and neither is better; each real candidate ties with itself."""
        real = self.mask[:, :, None] & self.mask[:, None, :]
        return real & ~self.better & ~self.better.transpose(1, 2)

    @property
    def score_gaps(self) -> Tensor:
        """[B, C, C] distance of two scores, never negative: which is better is up to `better`."""
        return differences(self.scores).abs().to(self.logps.dtype)

    def log_ratios(self, objective: object, *, reference_free: bool = False) -> Tensor:
        """[B, C] policy minus reference logp, nats; against a uniform reference the logp alone.

        Raises:
            UserError: the candidates bring no `reference_logps`.
        """
        if reference_free:
            return self.logps
        if self.reference_logps is None:
            raise UserError(
                f"{type(objective).__name__} needs `reference_logps`, the responses' "
                "log-probabilities under the frozen reference, and the candidates bring none: "
                "compute them before training (RankingTrainer does), or take an objective without "
                "a reference, such as objective=simpo or objective=rrhf."
            )
        return self.logps - self.reference_logps

    def nll_of_best(self, reduction: Reduction) -> Tensor:
        """[B] negative log-likelihood of the best, per token (`mean`) or in all (`sum`), nats.

        Candidates that tie for the best share it: the average of theirs. 0 where nothing is real.
        """
        return average(-(self.mean_logps if reduction == "mean" else self.logps), self.best)

    def pair_sum(self, values: Tensor) -> Tensor:
        """[B] sum of `values` [B, C, C] over the strict pairs; 0 where there is none."""
        return torch.where(self.better, values, 0.0).sum(dim=(1, 2))

    def pair_mean(self, values: Tensor) -> Tensor:
        """[B] mean of `values` [B, C, C] over the strict pairs; 0 where there is none."""
        return self.pair_sum(values) / self.better.sum(dim=(1, 2)).clamp(min=1)

    def position_losses(self, own: Tensor, others: Tensor) -> Tensor:
        """[B, C] of each position, -log of the softmax of a candidate against all strictly worse
        ones.

        Args:
            own: [B, C] the logit of candidate k in its own softmax.
            others: [B, C, C] `others[b, k, i]`, the logit of i in the softmax of k; read where k is
                better than i.

        0, without gradient, for a candidate that has none worse: the last one and padding. Tied
        candidates never enter each other's softmax.
        """
        has_worse = self.better.any(dim=2)
        compared = torch.cat([has_worse[:, :, None], self.better], dim=2)
        logits = torch.cat([own[:, :, None], others.expand_as(self.better)], dim=2)
        return logsumexp(logits, compared) - torch.where(has_worse, own, 0.0)

    def output(self, loss: Tensor, values: Tensor, **watched: Tensor) -> ObjectiveOutput:
        """What an objective returns: its loss [B], and what `watch` sees of `values`."""
        return ObjectiveOutput(loss, watch(self, values, **watched))


def differences(values: Tensor) -> Tensor:
    """[B, C] -> [B, C, C]: `values[b, i] - values[b, j]`."""
    return values[:, :, None] - values[:, None, :]


def average(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the last axis where `where` is True; 0 where it never is."""
    return torch.where(where, values, 0.0).sum(dim=-1) / where.sum(dim=-1).clamp(min=1)


def logsumexp(values: Tensor, where: Tensor) -> Tensor:
    """log(sum(exp(values))) over the last axis where `where` is True; 0 where it never is."""
    some = where.any(dim=-1, keepdim=True)
    # No row is all -inf: its gradient is (-inf) - (-inf) unless torch happens to handle it.
    masked = torch.where(some, torch.where(where, values, -torch.inf), 0.0)
    return torch.where(some[..., 0], torch.logsumexp(masked, dim=-1), 0.0)


def _check_shapes(candidates: Candidates) -> None:
    shape = candidates.logps.shape
    if len(shape) != 2:
        raise ValueError(f"candidates.logps is [prompts, candidates], not of shape {tuple(shape)}")
    for name in ("lengths", "scores", "mask", "ranks", "reference_logps"):
        tensor = getattr(candidates, name)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"candidates.{name} has shape {tuple(tensor.shape)}, logps {tuple(shape)}"
            )


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
