"""The work of a judge that runs on this machine."""

from __future__ import annotations

from dataclasses import replace

from rankdistill.bench.flops import sequences
from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import Stage
from rankdistill.score.judge import LLMJudge

QUESTION = 300
"""Tokens of the question around a prompt and its responses."""
VERDICT = 8
"""Tokens of an answer without an explanation."""


def judging(planner: Planner, scorer: LLMJudge, prompts: int, each: int) -> Stage:
    """The stage in which a model of this machine judges groups."""
    counts, settings = planner.counts, planner.settings
    shape = planner.teacher
    if scorer.model is not None:
        shape = planner.shape(scorer.model, settings.teacher)
    answer = scorer.max_answer_tokens if scorer.explain else VERDICT
    asked = prompts * scorer.questions(each)
    writing = planner.sampling("judge", shape, asked, 1)
    scale = answer / counts.response
    prompt = round(QUESTION + counts.prompt + scorer.shown(each) * counts.response)
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
