"""What a report suggests to do next, by its own figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rankdistill.report.table import percent

Metrics = Mapping[str, Any]
MANY_CUT = 0.3
"""Share of responses cut by the length limit from which that is said."""
ENOUGH_PROMPTS = 100
"""Held-out prompts below which an interval is wide."""
MORE_REPETITION = 2.0
"""Times that repetition has risen from which a lower rate is suggested."""


def next_steps(metrics: Metrics, folder: str = "") -> list[str]:
    """Sentences, with what to type between backticks.

    Args:
        folder: Of the run, as it can be typed; "" leaves out commands that need it.
    """
    return [*_doubts(metrics), *_commands(metrics, folder)]


def _doubts(metrics: Metrics) -> Iterator[str]:
    trained = metrics["models"].get(metrics["trained"])
    if trained is None:
        return
    if metrics["judge"]["is_training_teacher"] and not metrics.get("verified"):
        yield "a judge that did not rank the training responses: `score@eval.judge=judge`"
    if (trained["cut_share"] or 0.0) > MANY_CUT:
        told = f"{percent(trained['cut_share'])} of its responses were cut"
        yield f"longer responses: `sample.max_response_tokens=`, since {told}"
    if trained["prompts"] < ENOUGH_PROMPTS:
        yield "more held-out prompts, for narrower intervals: `prompts.limit.heldout=`"
    before = metrics["models"].get(metrics["baseline"])
    rose = trained["repetition"], before and before["repetition"]
    if rose[0] and rose[1] and rose[0] > 0.02 and rose[0] > MORE_REPETITION * rose[1]:
        yield "a lower `train.learning_rate=`, since repetition has doubled"


def _commands(metrics: Metrics, folder: str) -> Iterator[str]:
    if not folder:
        return
    place = shlex.quote(folder)
    yield f"beside another run: `python -m rankdistill.compare {place} OTHER`"
    if metrics["optimiser_steps"] is not None:
        yield f"talk to it: `python -m rankdistill.chat {place}`"
        yield f"publish or serve it: `python -m rankdistill.export {place}`"
