"""The reward model's loss against loops, TRL's formula and values that a reader can redo."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from rankdistill.errors import UserError
from rankdistill.train.reward import ranking_loss


def lists(seed: int = 0, prompts: int = 6, candidates: int = 5):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(prompts, candidates, generator=generator).double()
    scores = torch.randint(0, 4, (prompts, candidates), generator=generator).double() / 2
    lengths = torch.randint(1, candidates + 1, (prompts, 1), generator=generator)
    return rewards, scores, torch.arange(candidates) < lengths


def by_loops(rewards, scores, mask, margin=0.0, centering=0.0):
    """[B]: a pair after the other."""
    result = []
    for r, s, m in zip(rewards, scores, mask, strict=True):
        real = [i for i in range(len(r)) if m[i]]
        terms = [
            -logsigmoid(r[i] - r[j] - margin * (s[i] - s[j])) + centering * (r[i] + r[j]) ** 2
            for i, j in itertools.permutations(real, 2)
            if s[i] > s[j]
        ]
        result.append(sum(terms) / len(terms) if terms else torch.tensor(0.0).double())
    return torch.stack(result)


@pytest.mark.parametrize(
    "options", [{}, {"margin": 0.7}, {"centering": 1.0}, {"margin": 0.5, "centering": 0.2}]
)
def test_pairs_equal_the_loop(options):
    rewards, scores, mask = lists()
    assert_close(ranking_loss(rewards, scores, mask, **options), by_loops(*lists(), **options))


def test_two_candidates_are_trls_reward_loss():
    chosen, rejected = torch.tensor([0.3, -1.0]).double(), torch.tensor([-0.2, 0.5]).double()
    mask = torch.ones(2, 2, dtype=torch.bool)
    scores = torch.tensor([[1.0, 0.0], [0.25, 0.0]]).double()
    ours = ranking_loss(
        torch.stack([chosen, rejected], 1), scores, mask, margin=1.0, centering=0.01
    ).mean()
    # RewardTrainer.compute_loss of TRL, with its margin column and center_rewards_coefficient
    theirs = -logsigmoid(chosen - rejected - (scores[:, 0] - scores[:, 1])).mean()
    theirs = theirs + 0.01 * torch.mean((chosen + rejected) ** 2)
    assert_close(ours, theirs)


def test_plackett_luce_equals_the_draw_without_replacement():
    rewards = torch.tensor([[0.1, 1.2, -0.4, 2.0]]).double()
    scores = torch.tensor([[3.0, 1.0, 0.0, 2.0]]).double()  # the order is 0, 3, 1, 2
    mask = torch.ones(1, 4, dtype=torch.bool)
    order, likelihood = [0, 3, 1, 2], 0.0
    for position in range(3):
        left = rewards[0, order[position:]]
        likelihood += (left[0] - left.logsumexp(0)).item()
    loss = ranking_loss(rewards, scores, mask, loss="plackett_luce")
    assert loss.item() == pytest.approx(-likelihood)
    two = ranking_loss(rewards[:, :2], scores[:, :2], mask[:, :2], loss="plackett_luce")
    assert_close(two, ranking_loss(rewards[:, :2], scores[:, :2], mask[:, :2]))


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
def test_no_strict_pair_is_exactly_zero(loss):
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 6.0, 7.0]], requires_grad=True)
    scores = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    result = ranking_loss(rewards, scores, mask, loss=loss, centering=0.1)
    assert result.tolist() == [0.0, 0.0, 0.0]
    result.sum().backward()
    assert (rewards.grad == 0).all()


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
def test_padding_and_order_change_nothing(loss):
    rewards, scores, mask = lists(1)
    given = torch.where(mask, rewards, math.nan).requires_grad_()
    result = ranking_loss(given, torch.where(mask, scores, math.inf), mask, loss=loss)
    result.sum().backward()
    assert result.isfinite().all() and (given.grad[~mask] == 0).all()
    assert given.grad.isfinite().all()
    order = torch.randperm(rewards.shape[1], generator=torch.Generator().manual_seed(2))
    shuffled = (x[:, order] for x in (rewards, scores, mask))
    assert_close(ranking_loss(*shuffled, loss=loss), result.detach())
    # The rewards count by their differences only: the gradient of a prompt sums to 0.
    assert_close(given.grad.sum(1), torch.zeros(len(rewards)).double(), rtol=0, atol=1e-12)


def test_ranks_decide_where_they_are_given():
    rewards, mask = torch.tensor([[1.0, 0.0, -1.0]]), torch.ones(1, 3, dtype=torch.bool)
    scores = torch.tensor([[0.2, 0.1, 0.0]])
    tied = ranking_loss(rewards, scores, mask, ranks=torch.tensor([[0, 0, 1]]))
    assert tied.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)


def test_equal_rewards_give_log_two_and_extremes_stay_finite():
    mask = torch.ones(1, 4, dtype=torch.bool)
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert ranking_loss(torch.zeros(1, 4), scores, mask).item() == pytest.approx(math.log(2))
    large = torch.tensor([[-1e4, 1e4, 0.0, 5.0]], requires_grad=True)
    for loss in ("pairs", "plackett_luce"):
        ranking_loss(large, scores, mask, loss=loss).sum().backward()
        assert large.grad.isfinite().all()


def test_unknown_loss():
    with pytest.raises(UserError, match="plackett_luce"):
        ranking_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2) > 0, loss="placket")
