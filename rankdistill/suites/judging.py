"""What a model writes to a suite's questions, and the suite's judge: an OpenAI-compatible endpoint,
asked as `score=judge` asks one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rankdistill.console import progress
from rankdistill.errors import UserError
from rankdistill.http_client import check_url
from rankdistill.models import encode_prompt, template_arguments
from rankdistill.sample import SamplingOptions
from rankdistill.sample.model_folder import max_positions
from rankdistill.score.judge.endpoint import Endpoint
from rankdistill.score.judge.modes import Plan, Question
from rankdistill.score.judge.scorer import run as run_plans
from rankdistill.score.judge.verdicts import Form
from rankdistill.score.schema import JudgeEndpoint
from rankdistill.score.scorer import Verdict
from rankdistill.store import Output, Partial, Shards
from rankdistill.suites.suite import Suite
from rankdistill.thoughts import answer_of

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run

Asked = tuple[str, Sequence[Question]]
"""An id, and the questions whose answers belong together."""


class JudgedSuite(Suite):
    """A suite whose models write answers, which a judge behind an endpoint then reads."""

    judge: JudgeEndpoint
    max_response_tokens: int

    def opened(self) -> Endpoint:
        """The judge.

        Raises:
            UserError: no endpoint or model is given, or the endpoint is no URL or has credentials.
        """
        judge, group = self.judge, f"eval.{self.name}.judge"
        if judge.endpoint is None or judge.model is None:
            raise UserError(
                f"eval=[{self.name}] needs a judge: give {group}.endpoint, for example "
                f"http://127.0.0.1:8000/v1, and {group}.model."
            )
        check_url(f"{group}.endpoint", judge.endpoint, f"that {group}.key_variable names")
        return Endpoint(judge, group)

    def check_judge(self, form: Form | None = None) -> None:
        """Ask one small question. UserError: nobody answers, or not so that it can be of use."""
        with closing(self.opened()) as endpoint:
            endpoint.check(form=form)

    def written(
        self,
        run: Run,
        model: Model,
        what: str,
        asked: Mapping[str, Any],
        make: Callable[[Partial], Mapping[str, Any]],
    ) -> Output:
        """A model's answers, from the store where they are there; `asked` is what they answer."""
        identity = {
            "code": 1,
            "suite": f"{self.name} answers",
            "version": self.version,
            "model": model.identity,
            **model.thoughts_identity,
            "max_response_tokens": self.max_response_tokens,
            **run.sampled_by(model),
            "seed": run.settings.seed,
            **asked,
        }
        return run.stage("evaluate", what, identity, make)

    def judged(
        self, run: Run, what: str, answers: Output, asked: Sequence[Asked], by: Mapping[str, Any]
    ) -> Output:
        """The judge's verdicts on answers, see `judge`; `by` is what it is asked with."""
        how = self.judge
        template = template_arguments(how.chat_template_kwargs, "chat_template_kwargs")
        identity = {
            "code": 1,
            "suite": self.name,
            "version": self.version,
            "answers": answers.key,
            "judge": {
                "served": how.model,
                "temperature": how.temperature,
                "max_answer_tokens": how.max_answer_tokens,
                **({"chat_template_kwargs": template} if template else {}),
            },
            **by,
        }
        what = f"{what} judged by {how.model}"
        return run.stage("evaluate", what, identity, partial(judge, self.opened, asked))


def judge(
    opened: Callable[[], Endpoint], asked: Sequence[Asked], output: Partial
) -> dict[str, int]:
    """Writes rows of `id` and `values`, one per question, None where the answer was set aside.

    Rows stand in the order of `asked`, so those that an interrupted call left are not asked again.

    Returns:
        What it took and what went wrong: calls, retries, set_aside, tokens.

    Raises:
        UserError: the endpoint stopped answering; what was judged is kept.
    """
    shards, taken = output.shards("verdicts"), output.shards("counts")
    done = len(shards.rows())
    left = asked[done:]
    if left:
        names = iter(name for name, _ in left)
        plans = (_plan(questions) for _, questions in left)
        bar = progress(len(asked), "verdicts", done=done)
        with closing(opened()) as endpoint, bar as judged:
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
