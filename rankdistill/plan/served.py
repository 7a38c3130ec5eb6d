"""What is asked of endpoints: calls, tokens, cost, and hours as far as they can be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import PlannedStage
from rankdistill.score.schema import JudgeEndpoint
from rankdistill.score.scorer import Questions

QUESTION = 300
"""Tokens of a judge's question around a prompt and its responses."""
TOKENS_PER_SECOND = 30.0
"""That a server writes of one answer, which is assumed; a limit of requests may be slower."""


def written(planner: Planner, what: str, prompts: int, each: int) -> PlannedStage:
    """Responses of the served teacher."""
    endpoint = planner.settings.sample.endpoint
    most = endpoint.max_response_tokens or planner.counts.longest_response
    return _asked(
        planner, "sample", f"{what}: {prompts:,} prompts x {each}", str(endpoint.model),
        endpoint.urls, endpoint, calls=prompts * each, read=planner.counts.prompt,
        wrote=min(most, planner.counts.response), disk=prompts * each * 800,
    )  # fmt: skip


def judged(
    planner: Planner, scorer: JudgeEndpoint, questions: Questions, prompts: int, each: int
) -> PlannedStage:
    """Verdicts of a judge behind an endpoint."""
    counts = planner.counts
    return _asked(
        planner, "score", f"{prompts:,} groups of {each} by a judge", str(scorer.model),
        [scorer.endpoint or ""], scorer, calls=prompts * questions.count,
        read=QUESTION + counts.prompt + questions.shown * counts.response,
        wrote=questions.answer_tokens,
    )  # fmt: skip


def _asked(
    planner: Planner,
    name: str,
    what: str,
    model: str,
    urls: Sequence[str],
    settings: Any,
    *,
    calls: int,
    read: float,
    wrote: float,
    disk: float = 0.0,
) -> PlannedStage:
    """A stage that other machines compute.

    Args:
        settings: With `concurrency`, `requests_per_minute` and the prices.
        read: Tokens of a question.
        wrote: Tokens of an answer.
    """
    dollars = calls / 1e6 * (
        read * settings.dollars_per_million_input_tokens
        + wrote * settings.dollars_per_million_output_tokens
    )  # fmt: skip
    seconds = calls * wrote / TOKENS_PER_SECOND / settings.concurrency
    if settings.requests_per_minute:
        seconds = max(seconds, calls / settings.requests_per_minute * 60)
    cost = f", ${dollars:,.2f}" if dollars else ""
    where = f"{model} at {' and '.join(urls)}"
    return PlannedStage(
        name, f"{what}, {calls:,} calls to {where}{cost}", 0,
        planner.done(), calls * (read + wrote), 0, seconds,
        disk=disk,
    )  # fmt: skip
