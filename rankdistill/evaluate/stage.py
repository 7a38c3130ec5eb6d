"""The evaluate stage: every model answers the held-out prompts, the teacher scores, figures follow.

A model's figures depend on the models they are taken against, and on no other; so the points of a
sweep share those of the pruned student, the warmed-up student and the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.ranked import RankedSet
from rankdistill.evaluate.schema import QuickOptions
from rankdistill.evaluate.sharpening import control_temperature
from rankdistill.evaluate.students import HeldOut, evaluate_model
from rankdistill.evaluate.verified import Verified
from rankdistill.models import load_model, load_tokenizer, place, tokenizers_agree
from rankdistill.models.files import weights_bytes
from rankdistill.rank.combine import Scale, scale_of
from rankdistill.records import Group, Prompt
from rankdistill.run import Model, Run
from rankdistill.sample.stage import sample
from rankdistill.score import Scorer
from rankdistill.score.ensemble import absolute, members, merged
from rankdistill.score.stage import Outputs, Scored, score
from rankdistill.score.verifier import Verifier
from rankdistill.settings import Settings
from rankdistill.store import Partial


@dataclass(frozen=True)
class Answers:
    """A model's scored responses to the held-out prompts."""

    model: Model
    scored: Scored
    temperature: float
    tokens_per_second: float

    scale: Scale | None = None
    """Of several scorers' values: that of the warmed-up student's, so that models compare."""

    @cached_property
    def groups(self) -> list[Group]:
        if isinstance(self.scored, Outputs):
            return self.scored.rows(self.scale)  # type: ignore[return-value]
        return self.scored.rows()  # type: ignore[return-value]


LABELS = {
    "start": "before warm-up",
    "warmed_up": "warmed up",
    "trained": "trained",
    "sharpened": "warmed up, sharpened",
    "teacher": "teacher",
}
"""Names and headings of the report's columns, in their order."""


def label_of(name: str, models: Mapping[str, Any]) -> str:
    """The heading of one of `models`; without a warm-up there is no student before it."""
    return "before training" if name == "warmed_up" and "start" not in models else LABELS[name]


@dataclass(frozen=True)
class Comparison:
    """What the report compares: figures and scored answers of every model, in its order."""

    models: list[ModelFigures]
    groups: dict[str, list[Group]]
    ranked_set: RankedSet | None = None
    """What the students make of an existing set's held-out groups."""
    verified: Verified | None = None
    """Which demands the answers follow, where a verifier judges them."""
    suites: dict[str, Any] | None = None
    """The block of `metrics.json`; see `rankdistill.evaluate.suites`."""

    def temperature(self, name: str) -> float | None:
        """At which a model was sampled; None: it was not."""
        return next((model.temperature for model in self.models if model.name == name), None)

    @property
    def names(self) -> set[str]:
        """Of the models that anything was measured of."""
        measured = {model.name for model in self.models}
        measured |= self.ranked_set.labels.keys() if self.ranked_set else set()
        return measured.union(*(suite["models"] for suite in (self.suites or {}).values()))


def evaluation_judge(settings: Settings) -> Scorer:
    """The held-out judge, else the one that ranks the training set; judges of orders rate here."""
    return absolute(settings.judge or settings.scorer)


def judged_by_own_teacher(settings: Settings) -> bool:
    """Whether a teacher judged the training responses, and judges the evaluation as well.

    A teacher is any model that judges: by likelihood, as a judge, as a reward model; no rule is.
    """
    ranked = settings.trains and settings.rounds > 0
    if not ranked or (settings.rank.path is not None and not settings.rank.rescore):
        return False
    judge = evaluation_judge(settings)
    if all(isinstance(member, Verifier) for member in members(judge).values()):
        return False
    return judge.identity == absolute(settings.scorer).identity


@dataclass
class Evaluation:
    """The figures of a run's models against its warmed-up student and its teacher."""

    run: Run
    suite: QuickOptions
    prompts: Sequence[Prompt]
    """Of the held-out split."""
    prompts_key: str
    baseline: Model
    scale: Scale | None = None

    def compare(self, models: Mapping[str, Model]) -> Comparison:
        """The figures of all models of a run, in the report's order.

        Args:
            models: By the name in the report; `warmed_up`, `trained` and `teacher` are among them.
        """
        # The baseline first: it sets the scale of an ensemble.
        ordered = sorted(models.items(), key=lambda item: item[0] != "warmed_up")
        answers = {name: self.answers(model, name) for name, model in ordered}
        reference = Reference(answers["warmed_up"], answers["teacher"], self.suite)
        figures = {
            name: self.figures(name, label_of(name, models), given, reference)
            for name, given in answers.items()
        }
        if self.suite.sharpening_control:
            temperature = control_temperature(
                self, figures["warmed_up"], figures["trained"], reference
            )
            answers["sharpened"] = self.answers(models["warmed_up"], "sharpened", temperature)
            label = f"{label_of('warmed_up', models)}, T={temperature:.2f}"
            figures["sharpened"] = self.figures("sharpened", label, answers["sharpened"], reference)
        order = [name for name in LABELS if name in figures]
        return Comparison(
            [figures[name] for name in order], {name: answers[name].groups for name in order}
        )

    def answers(self, model: Model, name: str, temperature: float | None = None) -> Answers:
        """What `model` writes to the held-out prompts, and the teacher's scores of it."""
        run = self.run
        count = self.suite.responses_per_prompt
        source = "teacher" if model == run.teacher else "student"
        sampled = sample(
            run, model, self.prompts, self.prompts_key, source, count, temperature=temperature
        )
        groups: list[Any] = sampled.rows()
        split = "validation" if groups and groups[0]["split"] == "validation" else "held-out"
        what = f"{name}, {len(groups)} {split} prompts"
        scored = score(run, groups, sampled.key, model, what, evaluation_judge(run.settings))
        if isinstance(scored, Outputs) and model == self.baseline and self.scale is None:
            self.scale = scale_of(merged([o.rows() for o in scored.outputs]), scored.weights)  # type: ignore[arg-type]
        used = run.settings.sample.temperature if temperature is None else temperature
        speed = sampled.manifest["counts"]["tokens_per_second"]
        return Answers(model, scored, used, speed, self.scale)

    @property
    def read_identity(self) -> dict[str, Any]:
        """What a limit of the prompts that are read adds to an identity."""
        most = self.suite.read_prompts
        return {} if most is None else {"read_prompts": most}

    def figures(
        self, name: str, label: str, answers: Answers, reference: Reference
    ) -> ModelFigures:
        """The figures of one model, from the store where they were measured before."""
        settings = self.run.settings
        identity = {
            "code": 1,
            "suite": self.suite.version,
            "name": name,
            "label": label,
            "model": answers.model.identity,
            "answers": answers.scored.key,
            "baseline": self.baseline.identity,
            "baseline_answers": reference.baseline.scored.key,
            "teacher": self.run.teacher.identity,
            "teacher_answers": reference.teacher.scored.key,
            "temperature": answers.temperature,
            "layout": settings.train.layout.name,
            **self.read_identity,
        }

        def make(partial: Partial) -> Mapping[str, Any]:
            held_out = reference.held_out(self.run)
            model = (
                held_out.baseline
                if answers.model == self.baseline
                else load_for_evaluation(self.run, answers.model)
            )
            if answers.model == self.run.teacher and held_out.teacher is not None:
                model = held_out.teacher
            row = evaluate_model(
                name,
                model,
                answers.groups,
                held_out,
                label=label,
                temperature=answers.temperature,
                tokenizer=None
                if reference.same_tokenizer(answers.model)
                else load_tokenizer(answers.model.path),
            ).row()
            partial.shards().put([row])
            return {"prompts": len(answers.groups)}

        output = self.run.stage("evaluate", label, identity, make)
        row = {**output.rows()[0], "tokens_per_second": answers.tokens_per_second or None}
        row["disk_bytes"] = weights_bytes(answers.model.path)
        return ModelFigures.from_row(row)


@dataclass
class Reference:
    """What every model of the run is measured against; the models are loaded when first needed."""

    baseline: Answers
    teacher: Answers
    suite: QuickOptions
    _held_out: HeldOut | None = None

    def same_tokenizer(self, model: Model) -> bool:
        """Whether `model` shares the students' token ids."""
        if model.path == self.baseline.model.path:
            return True
        ours = load_tokenizer(self.baseline.model.path)
        return tokenizers_agree(ours, load_tokenizer(model.path))

    def held_out(self, run: Run) -> HeldOut:
        """The models and rows; loaded once a run, and only where a figure is missing."""
        if self._held_out is None:
            comparable = self.same_tokenizer(self.teacher.model)
            self._held_out = HeldOut(
                tokenizer=load_tokenizer(self.baseline.model.path),
                ranked=self.baseline.groups,
                baseline=load_for_evaluation(run, self.baseline.model),
                teacher=load_for_evaluation(run, self.teacher.model) if comparable else None,
                teacher_groups=self.teacher.groups if comparable else [],
                temperature=self.baseline.temperature,
                max_batch_tokens=self.suite.max_batch_tokens,
                read_prompts=self.suite.read_prompts,
                layout=run.settings.train.layout.name,
            )
        return self._held_out


def load_for_evaluation(run: Run, model: Model) -> Any:
    """The model where it is to be run, in the precision of its role."""
    settings = run.settings.teacher if model == run.teacher else run.settings.student
    quantization = run.settings.teacher.quantization if model == run.teacher else None
    loaded = load_model(
        model.path,
        precision=settings.precision.name,
        quantization=quantization and quantization.name,
        attn_implementation=settings.attn_implementation,
        trust_remote_code=settings.trust_remote_code,
    )
    return place(loaded, "cuda" if torch.cuda.is_available() else "cpu").eval()
