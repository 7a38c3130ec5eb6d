"""How a run trains: which method, in how many rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.stages.settings import Settings
from rankdistill.train.schema import PPOTrainOptions


def needs_reward(settings: Settings) -> bool:
    """Whether a reward model learns the ranking."""
    return settings.reward.only or isinstance(settings.train, PPOTrainOptions)


def method(settings: Settings) -> str:
    """What the student is trained by, for a title: `PPO`, `DPO, 3 rounds`."""
    if settings.retrieval is not None:
        return "Re-ranker"
    if settings.reward.only:
        return "Reward model"
    if settings.rounds == 0:
        return type(settings.warmup).__name__
    if isinstance(settings.train, PPOTrainOptions):
        return "PPO" if settings.train.advantage == "gae" else "PPO, group advantages"
    name = type(settings.objective).__name__
    return name if settings.rounds == 1 else f"{name}, {settings.rounds} rounds"


def joined(
    history: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], number: int
) -> list[dict[str, Any]]:
    """The history with that of round `number` after it: steps go on, and rows say their round."""
    done = max((row.get("step", 0) for row in history), default=0)
    more = [{**row, "step": row["step"] + done} if "step" in row else {**row} for row in rows]
    if number or history:
        more = [{**row, "round": number + 1} for row in more]
    return [*map(dict, history), *more]
