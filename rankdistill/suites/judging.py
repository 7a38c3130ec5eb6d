"""A suite's judge: any OpenAI-compatible endpoint, asked as `score=judge` asks one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rankdistill.console import progress
from rankdistill.errors import UserError
from rankdistill.http_client import check_url
from rankdistill.score.judge.endpoint import Endpoint, EndpointOptions
from rankdistill.score.judge.modes import Plan, Question
from rankdistill.score.judge.runner import run as run_plans
from rankdistill.score.judge.verdicts import Form
from rankdistill.score.schema import JudgeEndpoint, check_endpoint
from rankdistill.score.scorer import Verdict
from rankdistill.store import Partial

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
    endpoint = Endpoint(options)
    try:
        endpoint.check(form=form)
    finally:
        endpoint.close()


def judge_identity(options: EndpointOptions) -> dict[str, Any]:
    """What its verdicts depend on."""
    template = options.chat_template_kwargs
    return {
        "served": options.connection.model,
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
        endpoint = Endpoint(options)
        try:
            with progress(len(asked), "verdicts", done=done) as bar:
                names = iter(name for name, _ in left)
                for verdicts in run_plans((_plan(questions) for _, questions in left), endpoint):
                    rows = [
                        {"id": next(names), "values": [_plain(value) for value in verdict.values]}
                        for verdict in verdicts
                    ]
                    shards.append(rows)
                    taken.append([dict(verdict.counts) for verdict in verdicts])
                    bar.advance(len(rows))
        finally:
            endpoint.close()
    counts = Counter[str]()
    for row in taken.rows():
        counts.update(row)
    return dict(counts)


def _plan(questions: Sequence[Question]) -> Plan:
    answers = yield list(questions)
    return Verdict([math.nan if answer is None else answer for answer in answers])


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
