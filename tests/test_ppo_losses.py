"""PPO's arithmetic against loops that follow the definitions, and values that a reader can redo."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from rankdistill.train.ppo import gae, policy_loss, value_loss
from rankdistill.train.ppo.losses import (
    explained_variance,
    group_advantages,
    kl_estimates,
    whiten,
)

LENGTHS = [1, 4, 6, 3]
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


def noise(seed: int, like: torch.Tensor = MASK) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).double()


def with_rubbish(values: torch.Tensor, rubbish: float = math.nan) -> torch.Tensor:
    return torch.where(MASK, values, rubbish)


def advantage_by_sums(rewards, values, length, gamma, lam, t):
    """Equation 16 of the paper: the exponentially weighted sum of the TD errors that follow."""

    def delta(u):
        after = values[u + 1] if u + 1 < length else 0.0
        return rewards[u] + gamma * after - values[u]

    return sum((gamma * lam) ** (u - t) * delta(u) for u in range(t, length))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_is_the_sum_of_the_td_errors(gamma, lam):
    rewards, values = noise(1), noise(2)
    advantages, returns = gae(with_rubbish(rewards), with_rubbish(values), MASK, gamma, lam)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            wanted = advantage_by_sums(rewards[row], values[row], length, gamma, lam, t)
            assert_close(advantages[row, t], wanted, rtol=0, atol=1e-12)
    assert_close(returns[MASK], (advantages + values)[MASK])
    assert (advantages[~MASK] == 0).all() and (returns[~MASK] == 0).all()


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # deltas: 0 + 0.5 * 0.25 - 0.5 = -0.375, 1 - 0.25 = 0.75; then -0.375 + 0.25 * 0.75
    assert advantages.tolist() == [[-0.1875, 0.75]]
    assert returns.tolist() == [[0.3125, 1.0]]


def test_gae_without_discount_is_monte_carlo_minus_value():
    rewards, values = noise(3), noise(4)
    advantages, returns = gae(rewards, values, MASK, 1.0, 1.0)
    to_go = torch.where(MASK, rewards, 0.0).flip(1).cumsum(1).flip(1)
    assert_close(advantages[MASK], (to_go - values)[MASK])
    assert_close(returns[MASK], to_go[MASK])


@pytest.mark.parametrize(
    ("new", "advantage", "loss", "slope"),
    [
        (0.0, 2.0, -2.0, -2.0),  # ratio 1
        (math.log(1.1), 2.0, -2.2, -2.2),  # inside
        (math.log(1.5), 2.0, -2.4, 0.0),  # above, and the advantage wants more: clipped
        (math.log(1.5), -2.0, 3.0, 3.0),  # above, and the advantage wants less: not clipped
        (math.log(0.5), -2.0, 1.6, 0.0),  # below, and the advantage wants less: clipped
        (math.log(0.5), 2.0, -1.0, -1.0),  # below, and the advantage wants more: not clipped
    ],
)
def test_policy_loss_by_hand(new, advantage, loss, slope):
    new_logps = torch.tensor([[new]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 1).double(), torch.ones(1, 1, dtype=torch.bool)
    result = policy_loss(new_logps, old, torch.tensor([[advantage]]).double(), mask, clip=0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert new_logps.grad.item() == pytest.approx(slope)


def test_policy_loss_is_zero_without_advantage_and_off_the_mask():
    new = with_rubbish(noise(5)).requires_grad_()
    old, advantages = with_rubbish(noise(6)), with_rubbish(noise(7))
    loss = policy_loss(new, old, advantages, MASK, 0.2)
    loss.sum().backward()
    assert (loss[~MASK] == 0).all() and (new.grad[~MASK] == 0).all()
    assert loss.isfinite().all() and new.grad.isfinite().all()
    assert (policy_loss(new, old, torch.zeros_like(old), MASK, 0.2) == 0).all()


@pytest.mark.parametrize(
    ("value", "clip", "loss", "slope"),
    [
        (0.4, None, 0.18, -0.6),  # 0.5 * 0.6^2
        (0.4, 0.2, 0.32, 0.0),  # clipped to 0.2: 0.5 * 0.8^2, the worse of the two
        (0.1, 0.2, 0.405, -0.9),  # inside
        (-0.5, 0.2, 1.125, -1.5),  # away from the return: the plain one is worse
    ],
)
def test_value_loss_by_hand(value, clip, loss, slope):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    result = value_loss(values, old, returns, torch.ones(1, 1, dtype=torch.bool), clip)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope)


def test_value_loss_is_zero_off_the_mask():
    values = with_rubbish(noise(8)).requires_grad_()
    loss = value_loss(values, with_rubbish(noise(9)), with_rubbish(noise(10)), MASK, 0.2)
    loss.sum().backward()
    assert (loss[~MASK] == 0).all() and (values.grad[~MASK] == 0).all()
    assert loss.isfinite().all() and values.grad.isfinite().all()


def test_group_advantages_leave_one_out():
    returns = torch.tensor([[1.0, 2.0, 6.0], [0.1, 0.1, 0.1]]).double()
    advantages = group_advantages(returns)
    assert_close(advantages[0], torch.tensor([1 - 4, 2 - 3.5, 6 - 1.5]).double())
    assert (advantages[1] == 0).all()
    assert_close(advantages.sum(dim=1), torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_whitening_over_the_mask():
    values = noise(11) * 3 + 5
    for shift in (True, False):
        result = whiten(with_rubbish(values), MASK, shift_mean=shift)
        chosen = result[MASK]
        assert chosen.std(unbiased=False).item() == pytest.approx(1.0)
        assert chosen.mean().item() == pytest.approx(0.0 if shift else values[MASK].mean().item())
        assert (result[~MASK] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_whitening_of_equal_values(value):
    values = torch.full(MASK.shape, value)
    assert (whiten(values, MASK) == 0).all()
    assert_close(whiten(values, MASK, shift_mean=False)[MASK], values[MASK])


def test_kl_estimates_of_a_known_pair_of_distributions():
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    k1, k3 = kl_estimates(p.log(), q.log())
    exact = (p * (p / q).log()).sum()
    assert_close((p * k1).sum(), exact)  # unbiased: the expectation under p is the KL
    assert_close((p * k3).sum(), exact)
    assert (k3 >= 0).all() and (k1 < 0).any()


def test_explained_variance():
    returns = noise(12)
    assert explained_variance(with_rubbish(returns), with_rubbish(returns), MASK) == 1.0
    assert explained_variance(torch.zeros_like(returns), returns, MASK) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones_like(returns), MASK) == 0.0
