"""What a rollout earns: token rewards and advantages, against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from ppo_task import config
from torch.testing import assert_close

from rankdistill.forward import TokenGroup
from rankdistill.train.ppo.experience import Episode, Experience, padded, token_rewards
from rankdistill.warmup.support import Support


def episodes() -> list[Episode]:
    """Two prompts with two responses of 1 to 3 tokens; one of them is cut."""
    return [
        Episode(
            "p0", TokenGroup([1], [[5, 2], [6]]), [False, False], [1.0, -1.0],
            [[-1.0, -2.0], [-3.0]], [[-1.5, -2.5], [-3.0]], [[0.1, 0.2], [0.3]], [9.0, 9.0],
        ),
        Episode(
            "p1", TokenGroup([1], [[5, 6, 7], [6, 2]]), [True, False], [0.5, 2.0],
            [[-1.0, -1.0, -1.0], [-2.0, -2.0]], [[-1.0, -2.0, -1.0], [-2.0, -1.0]],
            [[0.0, 0.1, 0.2], [0.4, 0.5]], [0.25, 9.0],
        ),
    ]  # fmt: skip


def rewards(tmp_path: Any, **options: Any) -> list[list[float]]:
    mask, _ = padded([row for e in episodes() for row in e.logps])
    penalties = torch.zeros(mask.shape)
    return token_rewards(episodes(), penalties, mask, config(tmp_path, **options)).tolist()


def test_the_score_is_earned_by_the_last_token(tmp_path):
    assert rewards(tmp_path) == [[0, 1, 0], [-1, 0, 0], [0, 0, 0.5], [0, 2, 0]]


def test_a_cut_response_pays_the_missing_eos(tmp_path):
    assert rewards(tmp_path, missing_eos_penalty=1.0)[2] == [0, 0, -0.5]
    assert rewards(tmp_path, missing_eos_penalty=1.0)[3] == [0, 2, 0]


def test_a_cut_response_goes_on_with_the_critics_value(tmp_path):
    found = rewards(tmp_path, cut="bootstrap", gamma=0.5, missing_eos_penalty=1.0)
    assert found == [[0, 1, 0], [-1, 0, 0], [0, 0, 0.5 * 0.25 - 1.0], [0, 2, 0]]


def test_kl_penalty_and_advantages_by_hand(tmp_path):
    options = config(tmp_path, whiten_advantages=False, gamma=1.0, lam=1.0)
    experience = Experience.of(episodes(), options, kl_coef=0.1)
    # k1 of the first response is 0.5 per token: rewards -0.05 and 1 - 0.05.
    assert_close(experience.returns[0], torch.tensor([0.9, 0.95, 0.0]))
    assert_close(experience.advantages[0], torch.tensor([0.8, 0.75, 0.0]))
    # The third: 0, -0.1, 0.5; the fourth: 0, 0.1 + 2.
    assert_close(experience.returns[2], torch.tensor([0.4, 0.4, 0.5]))
    assert_close(experience.advantages[3], torch.tensor([1.7, 1.6, 0.0]))
    figures = experience.figures
    assert figures["score"] == pytest.approx(0.625)
    assert figures["kl"] == pytest.approx((0.5 + 0.5 + 0.0 + 0 + 1 + 0 + 0 - 1) / 8)
    assert figures["kl_response"] == pytest.approx((1.0 + 0.0 + 1.0 - 1.0) / 4)
    assert figures["entropy"] == pytest.approx((3 + 3 + 3 + 4) / 8)
    assert figures["response_tokens"] == 2.0 and figures["cut_share"] == 0.25


def test_group_advantages_are_the_same_for_every_token(tmp_path):
    options = config(tmp_path, advantage="group", whiten_advantages=False)
    experience = Experience.of(episodes(), options, kl_coef=0.0)
    wanted = [[2.0, 2.0, 0.0], [-2.0, 0.0, 0.0], [-1.5, -1.5, -1.5], [1.5, 1.5, 0.0]]
    assert_close(experience.advantages, torch.tensor(wanted))
    assert "explained_variance" not in experience.figures and experience.values is None


def test_whitening_is_over_all_tokens_of_the_rollout(tmp_path):
    experience = Experience.of(episodes(), config(tmp_path), kl_coef=0.1)
    chosen = experience.advantages[experience.mask]
    assert chosen.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert chosen.std(unbiased=False).item() == pytest.approx(1.0)
    assert (experience.advantages[~experience.mask] == 0).all()
    plain = Experience.of(episodes(), config(tmp_path), kl_coef=0.1)
    whitened = Experience.of(episodes(), config(tmp_path, whiten_rewards=True), kl_coef=0.1)
    assert not torch.allclose(plain.returns, whitened.returns)


def test_what_the_teacher_could_not_read_has_a_place_and_no_weight(tmp_path):
    options = config(
        tmp_path, advantage="teacher", divergence="forward_kl", top_k=2, kl_coef=0.5, gamma=0.0,
        reward_coef=0.0, ppo_epochs=1,
    )  # fmt: skip
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]])
    tail = torch.log1p(-logps.exp().sum(-1, keepdim=True))
    read = Support(torch.tensor([[3, 4], [7, 0]]), logps, tail)
    first, second = episodes()
    first = replace(first, supports=[read, None], unread=[False, True])
    second = replace(second, unread=[True, True])
    experience = Experience.of([first, second], options, kl_coef=0.5)
    assert experience.weights is not None
    assert experience.weights.tolist() == [[0.5, 0.5, 0.0], [0.0] * 3, [0.0] * 3, [0.0] * 3]
    target = experience.target([1, 0], options, vocabulary=9)
    assert target is not None and target.ids.shape == (3 + 2 + 2 + 1, 2)
    assert torch.equal(target.ids[5:7], read.ids) and torch.equal(target.values[5:7], logps)
    assert torch.equal(target.log_tail[5:7], tail[:, 0])
    # A weight of 0 takes nothing away from what is not finite.
    assert target.open(slice(None))(torch.randn(8, 9), slice(None)).isfinite().all()
    alone = experience.target([1], options, vocabulary=9)
    assert alone is not None and alone.ids.shape == (5, 1)
    plain = Experience.of([first, second], replace(options, divergence=None), kl_coef=0.5)
    assert plain.target([0], options, vocabulary=9) is None


def test_tokens_of_thoughts_and_of_answers_are_told_apart(tmp_path):
    first, second = episodes()
    first = replace(first, thought_tokens=[1, 0], unanswered=[False, True])
    figures = Experience.of([first, second], config(tmp_path), kl_coef=0.1).figures
    assert (figures["thought_tokens"], figures["answer_tokens"]) == (1 / 4, 8 / 4 - 1 / 4)
    assert figures["no_answer"] == 1 / 4
    unthinking = Experience.of(episodes(), config(tmp_path), kl_coef=0.1).figures
    assert not {"thought_tokens", "answer_tokens", "no_answer"} & unthinking.keys()


def test_rows_of_prompts(tmp_path):
    experience = Experience.of(episodes(), config(tmp_path), kl_coef=0.1)
    assert experience.rows([1]) == [2, 3] and experience.tokens([1]) == 5
