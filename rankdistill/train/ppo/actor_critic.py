"""Policy and critic as one module, so that one wrapper (DDP) sees the gradients of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rankdistill.forward import GroupBatch, LMHead, TokenLogps, bind
from rankdistill.forward.head import rows_at_once
from rankdistill.train.reward.model import readout, score_layer
from rankdistill.trainer.modes import disable_dropout
from rankdistill.warmup.head import Target


class ActorCritic(nn.Module):
    """A bound policy, and what values the states it goes through.

    Args:
        policy: A causal language model, perhaps with adapters; bound and freed of dropout, in
            place.
        critic: None for no critic; `value_head(policy)` for one on the policy's own last hidden
            states; a reward model (see `load_reward_model`) for a separate one.
        layout: Of the grouped forward.
        temperature: Logits are divided by it.
    """

    def __init__(
        self,
        policy: Any,
        critic: nn.Linear | PreTrainedModel | None,
        layout: str,
        temperature: float,
    ) -> None:
        super().__init__()
        disable_dropout(policy)
        self.policy = bind(policy, layout)
        self.critic = critic
        if critic is not None and not isinstance(critic, nn.Linear):
            disable_dropout(critic)
            bind(critic, layout)
        self._logps = TokenLogps(temperature)

    def forward(
        self, batch: GroupBatch, target: Target | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """([N] log-probabilities of the response tokens, nats; [N] values of the states before).

        With a target, which nothing with a critic has, its divergences are in the values' place.
        """
        critic: Any = self.critic
        if target is not None:
            return self.policy(group_batch=batch, head=_AgainstTarget(self._logps, target))
        if not isinstance(critic, nn.Linear):
            logps = self.policy(group_batch=batch, head=self._logps)
            return logps, None if critic is None else critic(group_batch=batch, head=_score(critic))

        def both(hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> tuple[Tensor, Tensor]:
            return self._logps(hidden, lm_head, batch), readout(critic, hidden)

        return self.policy(group_batch=batch, head=both)


@dataclass(frozen=True)
class _AgainstTarget:
    """A head: [N] log-probabilities of the response tokens, and [N] divergences from a target."""

    logps: TokenLogps
    target: Target

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        size = rows_at_once(self.logps.chunk_rows, hidden.device, lm_head.vocabulary)

        def divergences(states: Tensor, rows: slice) -> Any:
            return self.target.open(rows)(lm_head(states), slice(None))

        parts = []
        for start in range(0, hidden.shape[0], size):
            rows = slice(start, start + size)
            if torch.is_grad_enabled():  # a chunk's logits are computed again in the backward pass
                parts.append(checkpoint(divergences, hidden[rows], rows, use_reentrant=False))
            else:
                parts.append(divergences(hidden[rows], rows))
        return self.logps(hidden, lm_head, batch), torch.cat(parts)


def value_head(policy: Any) -> nn.Linear:
    """A critic on the policy's last hidden states that values every state 0: the mean reward."""
    config = policy.config.get_text_config()
    head = nn.Linear(config.hidden_size, 1, dtype=torch.float32, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _score(critic: Any) -> Any:
    layer = score_layer(critic)
    return lambda hidden, lm_head, batch: readout(layer, hidden)
