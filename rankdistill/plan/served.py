"""What is asked of endpoints: calls, tokens, cost, and hours as far as they can be known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rankdistill.endpoint import dollars
from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import Asked, PlannedStage
from rankdistill.report.stages import duration
from rankdistill.score.schema import JudgeEndpoint
from rankdistill.score.scorer import Questions
from rankdistill.stages.token_teachers import endpoint_with

QUESTION = 300
"""Tokens of a judge's question around a prompt and its responses."""
TOKENS_PER_SECOND = 30.0
"""That a server writes of one answer, which is assumed; a limit of requests may be slower."""
READ_PER_SECOND = 500.0
"""That it reads of one response that it says the tokens' log-probabilities of, which is assumed."""


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


def read(planner: Planner, teachers: Mapping[str, Any], prompts: int) -> Iterator[PlannedStage]:
    """Readings of the student's tokens by the served ones of several teachers, who share alike.

    Args:
        teachers: `named_teachers` of the training.
        prompts: That are answered in the whole training.
    """
    settings, counts = planner.settings, planner.counts
    each = settings.train.rollout.responses_per_prompt  # type: ignore[attr-defined]
    share = round(prompts / len(teachers))
    tokens = counts.prompt + counts.response
    for name, who in teachers.items():
        endpoint = settings.sample.endpoint
        if isinstance(who, Mapping):
            endpoint = endpoint_with(endpoint, f"train.teachers.{name}", who)
        elif who != "endpoint":
            continue
        yield _asked(
            planner, "train", f"tokens of {share:,} prompts x {each} read", str(endpoint.model),
            endpoint.urls, endpoint, calls=share * each, read=tokens, wrote=1,
            each=tokens / READ_PER_SECOND,
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
    each: float | None = None,
    disk: float = 0.0,
) -> PlannedStage:
    """A stage that other machines compute.

    Args:
        settings: With `concurrency`, `requests_per_minute` and the prices.
        read: Tokens of a question.
        wrote: Tokens of an answer.
        each: Seconds of an answer; None: as long as it takes to write it.
    """
    cost = dollars(settings, calls * read, calls * wrote)
    seconds = calls * (each or wrote / TOKENS_PER_SECOND) / settings.concurrency
    if settings.requests_per_minute:
        seconds = max(seconds, calls / settings.requests_per_minute * 60)
    told = f", ${cost:,.2f}" if cost else ""
    where = f"{model} at {' and '.join(urls)}"
    return PlannedStage(
        name, f"{what}, {calls:,} calls to {where}{told}", 0,
        planner.done(), calls * (read + wrote), 0, seconds,
        disk=disk,
        asked=Asked(model, tuple(urls), calls, calls * (read + wrote), cost),
    )  # fmt: skip


def who_does_what(planner: Planner, found: Sequence[PlannedStage]) -> list[str]:
    """A line for each served model that is asked, and one for this machine's devices; none where
    nothing is served."""
    by_model: dict[tuple[str, tuple[str, ...]], list[PlannedStage]] = {}
    for stage in found:
        if stage.asked is not None:
            by_model.setdefault((stage.asked.model, stage.asked.urls), []).append(stage)
    lines = []
    for (model, urls), stages in by_model.items():
        asked = [stage.asked for stage in stages if stage.asked is not None]
        cost = sum(one.dollars for one in asked)
        told = f", ${cost:,.2f}" if cost else ""
        names = ", ".join(dict.fromkeys(stage.name for stage in stages))
        lines.append(
            f"{' and '.join(urls)} ({model}): {names}; {sum(one.calls for one in asked):,} calls, "
            f"{sum(one.tokens for one in asked):,.0f} tokens, "
            f"{duration(sum(stage.seconds for stage in stages), roughly=True)}{told}."
        )
    return [*lines, _devices(planner, found)] if lines else []


def _devices(planner: Planner, found: Sequence[PlannedStage]) -> str:
    """Which of this machine's devices sample, and which train."""
    sample, devices = planner.settings.sample, planner.hardware.devices
    engines = (sample.data_parallel or 1) * sample.tensor_parallel
    here = [stage for stage in found if stage.asked is None]
    said = []
    if any(stage.name == "sample" for stage in here):
        said.append(f"sample on {min(engines, devices)}")
    trained = dict.fromkeys(stage.name for stage in here if stage.training is not None)
    if trained:
        how = f" by {planner.plan.spread}" if planner.plan.spread else ""
        said.append(f"{', '.join(trained)} on all{how}")
    return f"The {devices} devices of this machine: {'; '.join(said) or 'nothing'}."
