"""PPO: the policy learns from a reward, token by token."""

from rankdistill.train.ppo.losses import gae, policy_loss, value_loss

__all__ = ["gae", "policy_loss", "value_loss"]
