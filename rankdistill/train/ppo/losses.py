"""The arithmetic of PPO: pure functions of `[N, T]` tensors, N responses of at most T tokens.

`mask` [N, T] is True at response tokens, which stand on the left of a row. Off the mask every
result is exactly 0, whatever the arguments hold there. Nothing is averaged here: the loop divides
by the number of tokens of all processes, so that how a step is split up changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438), and the returns.

    ``delta_t = r_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lam A_{t+1}``; the value after
    the last token is 0. With ``gamma = lam = 1`` the advantage is the sum of the rewards that
    follow minus the value, with ``lam = 0`` the TD error.

    Args:
        rewards: [N, T] what a token earned.
        values: [N, T] the critic's value of the state *before* the token.
        mask: [N, T] bool.
        gamma: Discount per token, in [0, 1].
        lam: In [0, 1]; lower trusts the critic more.

    Returns:
        (advantages, returns), both [N, T], without gradient; ``returns = advantages + values`` are
        what the critic learns, and are taken before any whitening.
    """
    rewards = torch.where(mask, rewards.detach(), 0.0)
    values = torch.where(mask, values.detach(), 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = torch.where(mask, rewards + gamma * following - values, 0.0)
    advantages = torch.zeros_like(deltas)
    carried = torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1] - 1, -1, -1):
        carried = deltas[:, t] + gamma * lam * carried
        advantages[:, t] = carried
    return advantages, advantages + values


def policy_loss(
    new_logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """The clipped surrogate of a token (Schulman et al. 2017, arXiv:1707.06347, equation 7).

    ``max(-A rho, -A clamp(rho, 1 - clip, 1 + clip))`` with ``rho = exp(new - old)``. Where the
    ratio has left the interval in the direction that the advantage rewards, the gradient is 0.

    Args:
        new_logps: [N, T] log-probabilities under the policy that is trained, nats; has gradient.
        old_logps: [N, T] the same under the policy that wrote the responses.
        advantages: [N, T].
        mask: [N, T] bool.
        clip: Above 0.

    Returns:
        [N, T], unreduced.
    """
    ratio = torch.where(mask, new_logps - old_logps.detach(), 0.0).exp()
    advantages = torch.where(mask, advantages.detach(), 0.0)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return torch.where(mask, torch.maximum(-advantages * ratio, -advantages * clipped), 0.0)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> Tensor:
    """Half the squared error of a token's value, the worse of plain and clipped.

    ``0.5 max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2)``, as in OpenAI's baselines
    and InstructGPT; not in the paper.

    Args:
        values: [N, T] of the critic that is trained; has gradient.
        old_values: [N, T] at the time of the rollout.
        returns: [N, T].
        mask: [N, T] bool.
        clip: Above 0; None does not clip.

    Returns:
        [N, T], unreduced.
    """
    values = torch.where(mask, values, 0.0)
    old_values, returns = (torch.where(mask, x.detach(), 0.0) for x in (old_values, returns))
    loss = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (clipped - returns).square())
    return torch.where(mask, 0.5 * loss, 0.0)


def group_advantages(returns: Tensor) -> Tensor:
    """[B, K] -> [B, K]: a response's return minus the mean of the other K - 1 to its prompt.

    The leave-one-out baseline of RLOO (Ahmadian et al. 2024, arXiv:2402.14740): unbiased, and what
    GRPO subtracts, the mean of all K, times ``K / (K - 1)``. All equal: exactly 0.
    """
    centred = returns - returns.mean(dim=1, keepdim=True)
    same = (returns == returns[:, :1]).all(dim=1, keepdim=True)  # else their mean may be rounded
    return torch.where(same, 0.0, centred * returns.shape[1] / (returns.shape[1] - 1))


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """[N, T] with variance 1 over the mask, and with mean 0 unless the mean is kept.

    The variance is the population's. Values that are all the same become 0 (or stay, where the
    mean is kept): there is no scale to give them.
    """
    chosen = values[mask]
    mean, variance = chosen.mean(), chosen.var(unbiased=False)
    # What is left of equal values after rounding is not to be blown up to variance 1.
    negligible = variance.sqrt() <= 1e-6 * chosen.abs().max()
    scale = torch.where(negligible, torch.ones_like(variance), variance).rsqrt()
    centred = torch.where(negligible, torch.zeros_like(values), (values - mean) * scale)
    return torch.where(mask, centred if shift_mean else centred + mean, 0.0)


def kl_estimates(logps: Tensor, reference_logps: Tensor) -> tuple[Tensor, Tensor]:
    """Two unbiased estimates of KL(policy || reference) from the policy's own tokens, nats.

    k1 is the log-ratio, which may be negative; k3 = ``exp(-k1) - 1 + k1`` is not, and varies less
    while the two are close (Schulman 2020, "Approximating KL divergence").

    Returns:
        (k1, k3), each of the shape of the arguments.
    """
    k1 = logps - reference_logps
    return k1, torch.expm1(-k1) + k1


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """``1 - Var(returns - values) / Var(returns)`` over the mask; 0.0 where returns don't vary.

    1 is a perfect critic, 0 one that is worth no more than a constant.
    """
    error, spread = (returns - values)[mask], returns[mask].var(unbiased=False)
    return float(1.0 - error.var(unbiased=False) / spread) if float(spread) > 0 else 0.0


STEEPEST = 0.2
"""Relative error of the KL beyond which the coefficient does not change faster."""


@dataclass
class KLController:
    """A fixed coefficient, or one that steers the KL to a target (Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2).

    Args:
        coefficient: Now.
        target: Nats per response; None keeps the coefficient fixed.
        horizon: Responses after which a KL far off has changed the coefficient by `STEEPEST`.
    """

    coefficient: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, responses: int) -> None:
        """After a rollout of `responses` whose KL was `kl` nats per response."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -STEEPEST), STEEPEST)
            self.coefficient *= 1.0 + error * responses / self.horizon
