"""Reward models: a ranking becomes one number a response."""

from rankdistill.train.reward.loss import LOSSES, ranking_loss

__all__ = ["LOSSES", "ranking_loss"]
