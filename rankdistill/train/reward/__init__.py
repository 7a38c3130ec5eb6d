"""Reward models: a ranking becomes one number per response."""

from rankdistill.train.reward.trainer import LOSSES, ranking_loss

__all__ = ["LOSSES", "ranking_loss"]
