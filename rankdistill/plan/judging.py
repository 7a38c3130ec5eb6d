"""The work of a judge that runs on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rankdistill.bench.flops import sequences
from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import Stage

QUESTION = 300
"""Tokens of the question around a prompt and its responses."""
VERDICT = 8
"""Tokens of an answer without an explanation."""


def calls(scorer: Any, each: int) -> tuple[int, int]:
    """Questions to a group of `each` responses, and the responses that one shows."""
    mode = getattr(scorer.mode, "name", scorer.mode)
    aspects = len(scorer.aspects)
    if mode == "pointwise":
        return each * aspects, 1
    if mode == "pairwise":
        return each * (each - 1) * aspects, 2
    if mode == "tournament":
        return 4 * each * aspects, 2
    return scorer.shuffles * aspects, each


def judging(planner: Planner, scorer: Any, prompts: int, each: int) -> Stage:
    """The stage in which a model of this machine judges groups."""
    counts, settings = planner.counts, planner.settings
    questions, shown = calls(scorer, each)
    shape = planner.teacher
    if scorer.model is not None:
        shape = planner.shape(scorer.model, settings.teacher)
    answer = scorer.max_answer_tokens if scorer.explain else VERDICT
    asked = prompts * questions
    writing = planner.sampling("judge", shape, asked, 1)
    scale = answer / counts.response
    prompt = round(QUESTION + counts.prompt + shown * counts.response)
    read = planner.reading(
        "score", f"{asked:,} questions to a judge", shape, settings.teacher,
        sequences(asked, prompt, 0, rows=asked), max_batch_tokens=8192,
    )  # fmt: skip
    return replace(
        read,
        memory=writing.memory,
        flops=read.flops + writing.flops * scale,
        seconds=read.seconds + writing.seconds * scale,
        share=writing.share,
        remedy=writing.remedy and f"score.tensor_parallel_size={2 * scorer.tensor_parallel_size}",
    )
