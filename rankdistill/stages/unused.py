"""What a command asks for and a run of its kind has no use for, said in a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rankdistill.stages.rounds import distils, needs_reward
from rankdistill.stages.settings import Settings
from rankdistill.train.schema import PPOTrainOptions


def unused(settings: Settings, overrides: Iterable[str]) -> Iterator[str]:
    """A line for each group, or argument of a template, that is given and changes nothing.

    Args:
        overrides: Of the command line: what a recipe has from the one that it builds on was not
            asked for.
    """
    given = list(overrides)
    for group, why in _groups(settings):
        # Schedules, such as train.epochs, may be a habit; an option of the group is a choice.
        keys = "=" if group == "train" else "[.=]"
        asked = [word for word in given if re.match(rf"\+*{group}{keys}", word)]
        if asked:
            yield f"without effect: {' '.join(asked)}, since {why}."
    reads = distils(settings) and settings.train.named_teachers  # type: ignore[attr-defined]
    if reads and settings.teacher.chat_template_kwargs and set(reads.values()) != {"endpoint"}:
        yield (
            "without effect on what is learned: teacher.chat_template_kwargs, since with "
            "train=distillation the teacher reads the student's own tokens, and prompts as the "
            "student's template writes them (student.chat_template_kwargs)."
        )


def _groups(settings: Settings) -> Iterator[tuple[str, str]]:
    """The groups that this run does not look at, and why."""
    train = settings.train
    if not settings.trains:
        why = "nothing is trained"
        yield from (("objective", why), ("train", why), ("reward", why))
    elif settings.rounds == 0:
        why = "rounds=0 ends with the warm-up"
        yield from (("objective", why), ("train", why), ("reward", why))
    elif settings.reward.only:
        what = "a reward model" if settings.retrieval is None else "a re-ranker"
        why = f"reward.only=true trains {what}, whose loss is reward.loss"
        yield from (("objective", why), ("train", why))
    elif not isinstance(train, PPOTrainOptions):
        yield "reward", "train=ranking learns the ranking itself, without a reward model"
    elif train.distils:
        yield "objective", "train=distillation learns what the teacher says of each token"
        if not needs_reward(settings):
            yield "reward", f"train.reward_coef={train.reward_coef:g} asks for no reward model"
    else:
        yield "objective", "train=ppo learns from a reward, and has a loss of its own"
        if not needs_reward(settings):
            yield "reward", f"train.reward={train.reward} asks for no reward model"
