"""How a run trains: which method, on a ranking or without, in how many rounds, by which stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.prompts.privileged import BEST, TeachersView
from rankdistill.stages.settings import Settings
from rankdistill.train.schema import PPOTrainOptions


def needs_reward(settings: Settings) -> bool:
    """Whether a reward model learns the ranking."""
    train = settings.train
    return settings.reward.only or (isinstance(train, PPOTrainOptions) and train.learns_reward)


def distils(settings: Settings) -> bool:
    """Whether the teacher says what each token of the student is worth."""
    return isinstance(settings.train, PPOTrainOptions) and settings.train.distils


def shows_own_best(settings: Settings) -> bool:
    """Whether the teacher is shown the best response of the ranking that the run itself makes."""
    teacher = settings.teacher
    view = TeachersView.of(teacher.prompt_template, teacher.system_prompt)
    return settings.rank.path is None and view is not None and BEST in view.placeholders


def learns_unranked(settings: Settings) -> bool:
    """Whether PPO learns from a verifier, or the teacher alone, so that no response is ranked."""
    ranked = needs_reward(settings) or shows_own_best(settings)
    return isinstance(settings.train, PPOTrainOptions) and settings.rounds > 0 and not ranked


def needs_ranking(settings: Settings) -> bool:
    """Whether responses are ranked, in each round."""
    return settings.rounds > 0 and not learns_unranked(settings)


def method(settings: Settings) -> str:
    """What the student is trained by, for a title: `PPO`, `DPO, 3 rounds`."""
    if settings.retrieval is not None:
        return "Re-ranker"
    if settings.reward.only:
        return "Reward model"
    if settings.rounds == 0:
        return type(settings.warmup).__name__
    if distils(settings):
        return "On-policy distillation"
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


def parts(settings: Settings) -> list[str]:
    """The stages that a person waits for, in their order.

    What an evaluation or a warm-up samples on the way is part of it.
    """
    student = ["student"] if settings.student.keep_layers is not None else []
    if settings.retrieval is not None:
        return ["retrieve", *student, "score", "rank", "reward", "evaluate"]
    if not settings.trains:
        return [*(["prompts"] if settings.quick or student else []), *student, "evaluate"]
    existing = settings.rank.path is not None
    warmup = ["warmup"] if settings.warmup.lessons is not None else []
    score = ["score"] if not existing or settings.rank.rescore else []
    ranking = [*([] if existing else ["sample"]), *score, "rank"] if needs_ranking(settings) else []
    if settings.reward.only:
        return ["prompts", *student, *warmup, *ranking, "reward"]
    reward = ["reward"] if needs_reward(settings) else []
    rounds = [*ranking, *reward, "train"] * settings.rounds
    measured = settings.quick or settings.ranked or settings.suites
    return ["prompts", *student, *warmup, *rounds, *(["evaluate"] if measured else [])]
