"""From a rollout to what an update needs: token rewards, advantages, returns; and its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor

from rankdistill.forward import TokenGroup
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.losses import (
    explained_variance,
    gae,
    group_advantages,
    kl_estimates,
    whiten,
)
from rankdistill.warmup.support import Support, SupportRows


@dataclass(frozen=True)
class Episode:
    """A prompt with the K responses of a rollout; lists of K, and of tokens within."""

    prompt_id: str
    tokens: TokenGroup
    cut: list[bool]
    """Ended by the length limit instead of EOS: decided on the response alone."""
    scores: list[float]
    """The reward's; 0 where there is none."""
    logps: list[list[float]]
    """Under the policy that wrote it, by the trainer's forward: never the sampler's."""
    reference_logps: list[list[float]]
    values: list[list[float]] | None
    """Of the state before each token; None without a critic."""
    next_values: list[float] | None
    """Of the state after the last token, where `cut: bootstrap` needs it."""
    supports: list[Support | None] | None = None
    """The teacher's likeliest tokens, where a divergence is learned; None of one not read."""
    unread: list[bool] | None = None
    """The teacher could not read it: its `reference_logps` are `logps`. None: it read all."""
    thought_tokens: list[int] | None = None
    """Of each response; None: no response thought."""
    unanswered: list[bool] | None = None
    """It ended, by EOS or cut, before its thought did; None likewise."""

    def misses_end(self, k: int) -> bool:
        """Whether response k was cut, or ended inside its thought."""
        return self.cut[k] or (self.unanswered is not None and self.unanswered[k])


@dataclass(frozen=True, eq=False)
class Experience:
    """A whole rollout: N responses of at most T tokens. Every process holds all of it."""

    episodes: Sequence[Episode]
    mask: Tensor
    """[N, T]"""
    logps: Tensor
    values: Tensor | None
    advantages: Tensor
    returns: Tensor
    weights: Tensor | None
    """[N, T] of the divergence to the teacher; None where none is learned."""
    figures: dict[str, float]

    @classmethod
    def of(cls, episodes: Sequence[Episode], config: PPOConfig, kl_coef: float) -> Experience:
        """The experience of a rollout; every prompt has the same number of responses.

        With ``advantage: teacher`` (on-policy distillation, Thinking Machines Lab 2025; Gu et al.
        2024, MiniLLM, arXiv:2306.08543) a token's advantage is
        ``kl_coef (log p_teacher - log p_student)``, the negative of what it adds to KL(student ||
        teacher), and `gamma` times that of the next one; what a response is worth beyond the others
        to its prompt is added to all of its tokens. With `divergence` the teacher is learned from
        directly instead, see `target`, and adds nothing to the advantages. What it could not read
        has neither.
        """
        mask, logps = padded([row for e in episodes for row in e.logps])
        _, reference = padded([row for e in episodes for row in e.reference_logps])
        values = None
        if config.advantage == "gae":
            values = padded([row for e in episodes for row in e.values or ()])[1]
        k1, k3 = kl_estimates(logps, reference)
        distils = config.advantage == "teacher"
        read = mask & ~torch.tensor(
            [x for e in episodes for x in e.unread or [False] * len(e.scores)]
        ).unsqueeze(1)
        weights = None if config.divergence is None else kl_coef * read
        rewards = -kl_coef * k1 if weights is None else torch.zeros_like(k1)
        if not distils:
            rewards = token_rewards(episodes, rewards, mask, config)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        if values is not None:
            advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        elif distils:
            worth = worths(episodes, config).view(len(episodes), -1)
            advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, config.gamma, lam=1.0)
            returns = advantages = advantages + group_advantages(worth).view(-1, 1) * mask
        else:
            returns = rewards.sum(dim=1).view(len(episodes), -1)
            advantages = group_advantages(returns).view(-1, 1) * mask
            returns = returns.view(-1, 1) * mask
        figures = _figures(episodes, mask, logps, read, k1, k3)
        if config.reward_coef > 0:
            scores = [score for episode in episodes for score in episode.scores]
            figures |= {"score": fmean(scores), "score_std": pstdev(scores)}
        if values is not None:
            figures["explained_variance"] = explained_variance(values, returns, mask)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        return cls(episodes, mask, logps, values, advantages, returns, weights, figures)

    def rows(self, prompts: Sequence[int]) -> list[int]:
        """The rows of the responses to the prompts, in their order."""
        count = len(self.mask) // len(self.episodes)
        return [prompt * count + k for prompt in prompts for k in range(count)]

    def target(
        self, prompts: Sequence[int], config: PPOConfig, vocabulary: int
    ) -> SupportRows | None:
        """What the policy, of so many tokens, is held against at the response tokens of prompts.

        In the order of their rows; what could not be read has a place, and the weight 0. None where
        no divergence is learned.
        """
        if self.weights is None:
            return None
        assert config.divergence is not None
        supports: list[Support | None] = []
        for episode in (self.episodes[i] for i in prompts):
            supports += episode.supports or [None] * len(episode.scores)
        size = next((s.ids.shape[1] for s in supports if s is not None), 1)
        lengths = self.mask[self.rows(prompts)].sum(dim=1).tolist()
        parts = [
            _unknown(length, size) if s is None else s
            for s, length in zip(supports, lengths, strict=True)
        ]
        ids, values, tail = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return SupportRows(
            ids, values, tail[:, 0], config.divergence, config.sampling.temperature, vocabulary
        )

    def tokens(self, prompts: Sequence[int]) -> int:
        """Response tokens of the prompts."""
        return int(self.mask[self.rows(prompts)].sum())


def _unknown(tokens: int, size: int) -> Support:
    """A place for tokens that nothing is known of."""
    ids = torch.arange(size).expand(tokens, size)
    return Support(ids, torch.zeros(tokens, size), torch.full((tokens, 1), -math.log(2)))


def padded(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """N rows of floats as (mask [N, T], values [N, T]), padded on the right with 0."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    return mask, torch.zeros(mask.shape).masked_scatter(mask, flat)


def token_rewards(
    episodes: Sequence[Episode], penalties: Tensor, mask: Tensor, config: PPOConfig
) -> Tensor:
    """[N, T]: the penalties [N, T] of every token, and at the last what the response is worth."""
    last = mask.sum(dim=1, keepdim=True) - 1
    return penalties.scatter_add(1, last, worths(episodes, config).to(penalties.dtype)[:, None])


def worths(episodes: Sequence[Episode], config: PPOConfig) -> Tensor:
    """[N] what each response is worth: `reward_coef` times its score, less `missing_eos_penalty` if
    it was cut, or ended before its thought did.

    With ``cut: bootstrap`` a response that was cut is worth the critic's value of where it stands
    instead (Pardo et al. 2018, arXiv:1712.00378), discounted as the next state's.
    """
    worth = []
    for episode in episodes:
        for k, score in enumerate(episode.scores):
            earned = config.reward_coef * score
            if episode.cut[k] and config.cut == "bootstrap":
                assert episode.next_values is not None
                earned = config.gamma * episode.next_values[k]
            worth.append(earned - config.missing_eos_penalty * episode.misses_end(k))
    return torch.tensor(worth)


def _figures(
    episodes: Sequence[Episode],
    mask: Tensor,
    logps: Tensor,
    read: Tensor,
    k1: Tensor,
    k3: Tensor,
) -> dict[str, float]:
    """Of a rollout; `read` [N, T] is the mask of what the reference could read."""
    cut = [cut for episode in episodes for cut in episode.cut]

    def mean(values: Tensor, of: Tensor) -> float:
        return float(values[of].double().mean())

    return {
        "kl": mean(k1, read),
        "kl_k3": mean(k3, read),
        "kl_response": float(k1[read.any(dim=1)].double().sum(dim=1).mean()),
        # Unbiased: the tokens are the policy's own.
        "entropy": -mean(logps, mask),
        "responses": float(len(mask)),
        "response_tokens": float(mask.sum(dim=1).double().mean()),
        "cut_share": fmean(cut),
        **_thought_figures(episodes, mask),
    }


def _thought_figures(episodes: Sequence[Episode], mask: Tensor) -> dict[str, float]:
    """Mean tokens of thought and answer, and the share without an answer; {} where none thought."""
    thought = [n for e in episodes for n in e.thought_tokens or [0] * len(e.scores)]
    lost = [x for e in episodes for x in e.unanswered or [False] * len(e.scores)]
    if not any(thought) and not any(lost):
        return {}
    return {
        "thought_tokens": fmean(thought),
        "answer_tokens": float(mask.sum()) / len(thought) - fmean(thought),
        "no_answer": fmean(lost),
    }
