"""A language model as a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rankdistill import models
from rankdistill.endpoint import priced
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.http_client import check_url
from rankdistill.models.model import Model
from rankdistill.rows import Group
from rankdistill.score.judge.endpoint import Endpoint, EndpointOptions
from rankdistill.score.judge.modes import MODES, Brief, Plan
from rankdistill.score.judge.prompts import load_criterion, load_frame
from rankdistill.score.judge.runner import Respondent, run
from rankdistill.score.schema import JudgeOptions
from rankdistill.score.scorer import Questions, Scorer, TeacherAccess, Verdict

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
        endpoint = Endpoint(EndpointOptions.of(self, "score", self.seed))
        try:
            endpoint.check(logprobs=self._brief().expected_score)
        finally:
            endpoint.close()

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[Verdict]]:
        """The verdicts on the groups after the first `done`; see `Scorer`."""
        if done == len(groups):
            return
        plans, respondent = self._plans(groups[done:], access), self._open(access)
        try:
            for verdicts in run(plans, respondent):
                yield [self._priced(verdict) for verdict in verdicts]
        finally:
            respondent.close()

    def _plans(self, groups: Sequence[Group], access: TeacherAccess) -> Iterator[Plan]:
        """How it goes about each group."""
        brief = self._brief()
        return (MODES[self.mode](group, brief) for group in groups)

    def _open(self, access: TeacherAccess) -> Respondent:
        if self.endpoint is not None:
            return Endpoint(EndpointOptions.of(self, "score", self.seed))
        from rankdistill.score.judge.engine import Engine, EngineOptions

        return Engine(
            EngineOptions(
                model=self._model(access),
                dtype=self.dtype,
                gpu_memory_utilization=self.gpu_memory_utilization,
                tensor_parallel_size=self.tensor_parallel_size,
                concurrency=self.concurrency,
                temperature=self.temperature,
                max_answer_tokens=self.max_answer_tokens,
                seed=self.seed,
            )
        )

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

    def _priced(self, verdict: Verdict) -> Verdict:
        prices = (self.dollars_per_million_input_tokens, self.dollars_per_million_output_tokens)
        return replace(verdict, counts=priced(dict(verdict.counts), *prices))
