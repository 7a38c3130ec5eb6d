"""The parts of a run that a person waits for, in the order of `rankdistill.stages.pipeline`."""

from __future__ import annotations

from rankdistill.stages.rounds import needs_reward
from rankdistill.stages.settings import Settings


def parts(settings: Settings) -> list[str]:
    """Names of stages; what an evaluation or a warm-up samples on the way is part of it."""
    student = ["student"] if settings.student.keep_layers is not None else []
    if settings.retrieval is not None:
        return ["retrieve", *student, "score", "rank", "reward", "evaluate"]
    if not settings.trains:
        return [*(["prompts"] if settings.quick or student else []), *student, "evaluate"]
    existing = settings.rank.path is not None
    warmup = ["warmup"] if settings.warmup.lessons is not None else []
    score = ["score"] if not existing or settings.rank.rescore else []
    ranking = [*([] if existing else ["sample"]), *score, "rank"]
    if settings.reward.only:
        return ["prompts", *student, *warmup, *ranking, "reward"]
    reward = ["reward"] if needs_reward(settings) else []
    rounds = [*ranking, *reward, "train"] * settings.rounds
    measured = settings.quick or settings.ranked or settings.suites
    return ["prompts", *student, *warmup, *rounds, *(["evaluate"] if measured else [])]
