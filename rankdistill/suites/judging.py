"""What a model writes to a suite's questions, and the suite's judge: an OpenAI-compatible endpoint,
asked as `score=judge` asks one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankdistill.console import progress
from rankdistill.errors import UserError
from rankdistill.http_client import check_url
from rankdistill.models import encode_prompt
from rankdistill.sample import SamplingOptions
from rankdistill.sample.model_folder import max_positions
from rankdistill.score.judge.endpoint import Endpoint, EndpointOptions
from rankdistill.score.judge.modes import Plan, Question
from rankdistill.score.judge.scorer import run as run_plans
from rankdistill.score.judge.verdicts import Form
from rankdistill.score.schema import JudgeEndpoint, check_endpoint
from rankdistill.score.scorer import Verdict
from rankdistill.store import Partial, Shards
from rankdistill.thoughts import answer_of

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run

Asked = tuple[str, Sequence[Question]]
"""An id, and the questions whose answers belong together."""


def endpoint_options(group: str, judge: JudgeEndpoint) -> EndpointOptions:
    """The keys of a suite's `judge`.

    Args:
        group: Where they are: ``eval.mt_bench.judge``.

    Raises:
        UserError: no endpoint or model is given, the endpoint is no URL or carries credentials, or
            a number is out of its range.
    """
    suite = group.removesuffix(".judge").removeprefix("eval.")
    if judge.endpoint is None or judge.model is None:
        raise UserError(
            f"eval=[{suite}] needs a judge: give {group}.endpoint, for example "
            f"http://127.0.0.1:8000/v1, and {group}.model."
        )
    check_url(f"{group}.endpoint", judge.endpoint, f"that {group}.key_variable names")
    check_endpoint(group, judge)
    return EndpointOptions.of(judge, group)


def check_judge(options: EndpointOptions, form: Form | None = None) -> None:
    """Ask one small question. UserError: nobody answers, or not so that it can be of use."""
    with closing(Endpoint(options)) as endpoint:
        endpoint.check(form=form)


def judge_identity(options: EndpointOptions) -> dict[str, Any]:
    """What its verdicts depend on."""
    template = options.chat_template_kwargs
    return {
        "served": options.connection.settings.model,
        "temperature": options.temperature,
        "max_answer_tokens": options.max_answer_tokens,
        **({"chat_template_kwargs": template} if template else {}),
    }


def judge(options: EndpointOptions, asked: Sequence[Asked], partial: Partial) -> dict[str, int]:
    """Writes rows of `id` and `values`, one per question, None where the answer was set aside.

    Rows stand in the order of `asked`, so those that an interrupted call left are not asked again.

    Returns:
        What it took and what went wrong: calls, retries, set_aside, tokens.

    Raises:
        UserError: the endpoint stopped answering; what was judged is kept.
    """
    shards, taken = partial.shards("verdicts"), partial.shards("counts")
    done = len(shards.rows())
    left = asked[done:]
    if left:
        names = iter(name for name, _ in left)
        plans = (_plan(questions) for _, questions in left)
        bar = progress(len(asked), "verdicts", done=done)
        with closing(Endpoint(options)) as endpoint, bar as judged:
            for verdicts in run_plans(plans, endpoint):
                values = [[None if v != v else v for v in verdict.values] for verdict in verdicts]
                shards.append([{"id": next(names), "values": row} for row in values])
                taken.append([dict(verdict.counts) for verdict in verdicts])
                judged.advance(len(verdicts))
    counts = Counter[str]()
    for row in taken.rows():
        counts.update(row)
    return dict(counts)


def _plan(questions: Sequence[Question]) -> Plan:
    answers = yield list(questions)
    return Verdict([math.nan if answer is None else answer for answer in answers])


STEP = 128
"""Where a full response does not fit behind its prompt, it may have a multiple of these tokens."""


@dataclass(frozen=True)
class Request:
    """A conversation that is to be answered."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    temperature: float


def write_answers(
    run: Run, model: Model, requests: Sequence[Request], max_response_tokens: int, shards: Shards
) -> dict[str, str]:
    """The text of every response by id; without those whose prompt leaves the model no room.

    Sampled without top-p and top-k. Rows of `id` and `text` that are in the shards are not written
    again.
    """
    tokenizer = model.tokenizer()
    positions = max_positions(model.folder) or 2**31
    grouped: dict[tuple[float, int], list[tuple[str, list[int]]]] = {}
    for request in requests:
        ids = encode_prompt(tokenizer, request.messages)
        room = positions - len(ids)
        most = max_response_tokens if room >= max_response_tokens else room // STEP * STEP
        if most > 0:
            grouped.setdefault((request.temperature, most), []).append((request.id, ids))
    done = {row["id"] for row in shards.rows()}
    with progress(sum(map(len, grouped.values())), "responses", done=len(done)) as bar:
        for (temperature, most), asked in sorted(grouped.items()):
            if all(name in done for name, _ in asked):
                continue
            options = SamplingOptions(1, temperature, 1.0, 0, most, run.settings.seed)
            sampler = run.sampler()
            sampler.prepare(model, asked, options)
            for name, responses in sampler.sample(model, asked, options, "student", done=done):
                shards.append([{"id": name, "text": answer_of(responses[0]["text"])}])
                bar.advance()
    return {row["id"]: row["text"] for row in shards.rows()}


def sampled_by(run: Run, model: Model) -> dict[str, Any]:
    """What the identity of such answers says of how they were sampled."""
    return {**run.sampled_by(model), "seed": run.settings.seed}
