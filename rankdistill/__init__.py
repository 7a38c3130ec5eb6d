"""rankdistill: a student writes, a teacher ranks, the student learns the ranking."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rankdistill.train.ranking import RankingConfig, RankingTrainer

__all__ = ["RankingConfig", "RankingTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the trainer, and with it torch, only when it is asked for."""
    if name in ("RankingConfig", "RankingTrainer"):
        return getattr(import_module("rankdistill.train.ranking"), name)
    raise AttributeError(f"module 'rankdistill' has no attribute '{name}'")
