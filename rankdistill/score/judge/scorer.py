"""A language model as a scorer: the plans of many groups run at once over a judge that answers many
questions at once."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from rankdistill import models
from rankdistill.endpoint import Answer, priced
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.http_client import check_url
from rankdistill.models.model import Model
from rankdistill.rows import Group
from rankdistill.score.judge.endpoint import Endpoint
from rankdistill.score.judge.modes import MODES, Brief, Plan, Question
from rankdistill.score.judge.prompts import load_criterion, load_frame
from rankdistill.score.schema import JudgeOptions
from rankdistill.score.scorer import Questions, Scorer, TeacherAccess, Verdict


class Respondent(Protocol):
    """Whoever answers: an endpoint, or an engine on this machine."""

    @property
    def capacity(self) -> int:
        """Questions that it should have in hand."""
        ...

    def submit(self, question: Question) -> Future[Answer]:
        """Answer in the background; the future raises UserError where the run must stop."""
        ...

    def close(self) -> None:
        """Drop what is not answered, and free what is held."""
        ...


@dataclass
class _Running:
    """A plan, and the round that it waits for."""

    plan: Plan
    answers: list[Answer | None] = field(default_factory=list)
    left: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def run(plans: Iterable[Plan], respondent: Respondent) -> Iterator[list[Verdict]]:
    """The verdicts in the order of the plans, as soon as those before them are there.

    Plans are started while the respondent has fewer questions in hand than its capacity, and no
    more than twice that number is ahead of the first one that is not finished: memory is bounded
    by the capacity, whatever the number of plans.
    """
    waiting = enumerate(plans)
    running: dict[int, _Running] = {}
    finished: dict[int, Verdict] = {}
    done: queue.SimpleQueue[tuple[int, int, Future[Answer]]] = queue.SimpleQueue()
    delivered, in_hand, more = 0, 0, True

    def ask(number: int, verdicts: list[Any] | None) -> int:
        """The next round of a plan; the number of its questions."""
        state = running[number]
        try:
            questions = next(state.plan) if verdicts is None else state.plan.send(verdicts)
            while not questions:
                questions = state.plan.send([])
        except StopIteration as end:
            counts = running.pop(number).counts
            counts.update(end.value.counts)
            finished[number] = replace(end.value, counts=counts)
            return 0
        state.answers, state.left = [None] * len(questions), len(questions)
        for place, question in enumerate(questions):
            future = respondent.submit(question)
            future.add_done_callback(lambda f, place=place: done.put((number, place, f)))
        return len(questions)

    while True:
        ahead = 2 * respondent.capacity
        while more and in_hand < respondent.capacity and len(finished) + len(running) < ahead:
            number, plan = next(waiting, (-1, None))
            if plan is None:
                more = False
                break
            running[number] = _Running(plan)
            in_hand += ask(number, None)
        ready = []
        while delivered in finished:
            ready.append(finished.pop(delivered))
            delivered += 1
        if ready:
            yield ready
            continue
        if not running:
            return
        number, place, future = done.get()
        in_hand -= 1
        state, answer = running[number], future.result()
        state.answers[place] = answer
        state.counts.update(answer.counts)
        state.left -= 1
        if state.left == 0:
            in_hand += ask(number, [answer.result for answer in state.answers if answer])


_KWARGS = "score.chat_template_kwargs"
VERDICT_TOKENS = 8
"""Of an answer without an explanation, about."""


@dataclass(frozen=True)
class LLMJudge(JudgeOptions, Scorer):
    """What a language model says of responses; the keys are explained in `conf/score/judge.yaml`.

    `pointwise` values are ratings in [1, 10]; those of the other modes are the share of the other
    responses to the same prompt that a response was put before, in [0, 1].

    Raises:
        UserError: an unknown mode or aspect, a prompt without a placeholder, an endpoint without a
            model, or a URL that carries credentials.
    """

    seed: int = 0

    name: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._brief()
        models.template_arguments(self.chat_template_kwargs, _KWARGS)
        if self.endpoint is None:
            return
        check_url("score.endpoint", self.endpoint, "that score.key_variable names")
        if self.model is None:
            raise UserError(
                "score.endpoint is set and score.model is not: name the model as the endpoint does."
            )

    @property
    def identity(self) -> dict[str, Any]:
        brief = self._brief()
        served = {"served": self.model} if self.endpoint else {"dtype": self.dtype}
        local = {"local": models.identity(self.model)} if self.model and not self.endpoint else {}
        where = ("endpoint", "model", "dtype")
        return {
            "scorer": self.name,
            "code": 1,
            **identity_of(self, instead=("prompt", "aspects", *where)),
            "frame": brief.frame.text,
            "criteria": dict(brief.criteria),
            "expected_score": brief.expected_score,
            "shuffles": self.shuffles if self.mode == "listwise" else None,
            **served,
            **local,
        }

    @property
    def uses_teacher(self) -> bool:
        """Whether the run's teacher is the judge."""
        return self.endpoint is None and self.model is None

    @property
    def on_this_machine(self) -> bool:
        """Whether it starts an engine, for which another one has to make room."""
        return self.endpoint is None

    @property
    def relative(self) -> bool:
        """Whether values compare the responses to one prompt only."""
        return self.mode != "pointwise"

    @property
    def absolute(self) -> LLMJudge:
        """The same judge, rating each response by itself."""
        return replace(self, mode="pointwise", prompt=None) if self.relative else self

    def about(self, teacher: str) -> str:
        return f"{self.name} under {self.model or teacher}"

    @property
    def runs_here(self) -> bool:
        """See `Scorer`."""
        return self.endpoint is None

    def questions(self, responses: int) -> Questions:
        """See `Scorer`."""
        mode = MODES[self.mode]
        return Questions(
            mode.questions(responses, self.shuffles) * len(self.aspects),
            mode.shown(responses),
            self.max_answer_tokens if self.explain else VERDICT_TOKENS,
            self.tensor_parallel_size,
        )

    def check(self, access: TeacherAccess) -> None:
        """See that vLLM is there, or ask the endpoint a question. UserError: it can't work."""
        if self.endpoint is None:
            from rankdistill.sample import no_backend, resolve_sampler

            resolve_sampler("vllm")
            reason = no_backend(access.teacher) if self.model is None else None
            if reason is not None:
                raise UserError(f"{reason}: let another one judge, as score.model.")
            if self.chat_template_kwargs:
                self._model(access)
            return
        with closing(Endpoint(self, "score", self.seed)) as endpoint:
            endpoint.check(logprobs=self._brief().expected_score)

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[Verdict]]:
        """The verdicts on the groups after the first `done`; see `Scorer`."""
        if done == len(groups):
            return
        plans = self._plans(groups[done:], access)
        with closing(self._open(access)) as respondent:
            for verdicts in run(plans, respondent):
                yield [replace(v, counts=priced(dict(v.counts), self)) for v in verdicts]

    def _plans(self, groups: Sequence[Group], access: TeacherAccess) -> Iterator[Plan]:
        """How it goes about each group."""
        brief = self._brief()
        return (MODES[self.mode](group, brief) for group in groups)

    def _open(self, access: TeacherAccess) -> Respondent:
        if self.endpoint is not None:
            return Endpoint(self, "score", self.seed)
        from rankdistill.score.judge.engine import Engine

        return Engine(self._model(access), self, self.seed)

    def _model(self, access: TeacherAccess) -> Model:
        """The judge on this machine. UserError: its template does not read an argument."""
        # Whoever lets the teacher's own code run lets that of a judge in its place.
        of_teacher = access.teacher.loading
        model = Model.named(self.model, of_teacher) if self.model else access.teacher
        return models.written_with(model, None, self.chat_template_kwargs, _KWARGS)

    def _brief(self) -> Brief:
        return Brief(
            frame=load_frame(self.mode, self.prompt),
            criteria=[load_criterion(aspect) for aspect in self.aspects],
            explain=self.explain,
            expected_score=self.expected_score and not self.relative,
            shuffles=self.shuffles,
            seed=self.seed,
        )
