"""What the models of a run are measured against: the baseline's and the teacher's answers.

And the control: a policy that training made surer of itself scores higher under a likelihood for
that alone. So the warmed-up student is sampled at the temperature that gives its responses the
trained one's entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rankdistill.evaluate.schema import QuickOptions
from rankdistill.evaluate.students import HeldOut
from rankdistill.evaluate.tokens import batches_of, matching_temperature, mean_entropy
from rankdistill.forward import bind
from rankdistill.models import Rows, tokenizers_agree
from rankdistill.rows import Group
from rankdistill.score import Scorer
from rankdistill.score.ensemble import Ensemble
from rankdistill.stages.rounds import needs_ranking
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.settings import Settings
from rankdistill.store import Partial


@dataclass(frozen=True)
class Answers:
    """A model's scored responses to the held-out prompts."""

    model: Model
    scored: Rows
    temperature: float
    tokens_per_second: float

    @property
    def groups(self) -> Sequence[Group]:
        """Of `scored`."""
        return self.scored.rows


@dataclass
class Reference:
    """What every model of the run is measured against; the models are loaded when first needed."""

    baseline: Answers
    teacher: Answers | None
    """None where it is served: nothing can be read with it."""
    suite: QuickOptions
    _held_out: HeldOut | None = None

    @property
    def read_identity(self) -> dict[str, Any]:
        """What a limit of the prompts that are read adds to an identity."""
        most = self.suite.read_prompts
        return {} if most is None else {"read_prompts": most}

    def same_tokenizer(self, model: Model) -> bool:
        """Whether `model` shares the students' token ids."""
        if model.path == self.baseline.model.path:
            return True
        return tokenizers_agree(self.baseline.model.tokenizer(), model.tokenizer())

    def held_out(self, run: Run) -> HeldOut:
        """The models and rows; loaded where a figure is missing, and kept until one samples."""
        if self._held_out is None:
            run.hold_models(self._let_go)
            teacher = self.teacher
            if teacher is not None and not self.same_tokenizer(teacher.model):
                teacher = None
            self._held_out = HeldOut(
                tokenizer=self.baseline.model.tokenizer(),
                ranked=self.baseline.groups,
                baseline=self.baseline.model.load_on_device(),
                teacher=None if teacher is None else teacher.model.load_on_device(),
                teacher_groups=[] if teacher is None else teacher.groups,
                temperature=self.baseline.temperature,
                max_batch_tokens=self.suite.max_batch_tokens,
                read_prompts=self.suite.read_prompts,
                layout=run.settings.train.layout.name,
            )
        return self._held_out

    def _let_go(self) -> None:
        self._held_out = None


LABELS = {
    "start": "before warm-up",
    "warmed_up": "warmed up",
    "trained": "trained",
    "sharpened": "same entropy",
    "teacher": "teacher",
}
"""Names and headings of the report's columns, in their order."""


def label_of(name: str, models: Mapping[str, Any]) -> str:
    """The heading of one of `models`; without a warm-up there is no student before it."""
    return "before training" if name == "warmed_up" and "start" not in models else LABELS[name]


def called(name: str, settings: Settings) -> str:
    """A model in a stage's heading, called as in the report."""
    untouched = name == "warmed_up" and settings.warmup.lessons is None
    return "before training" if untouched else LABELS.get(name, name)


def evaluation_judge(settings: Settings) -> Scorer | Ensemble:
    """The held-out judge, else the one that ranks the training set; judges of orders rate here."""
    return (settings.judge or settings.scorer).absolute


def judged_by_own_teacher(settings: Settings) -> bool:
    """Whether a teacher judged the training responses, and judges the evaluation as well.

    A teacher is any model that judges: by likelihood, as a judge, as a reward model; no rule is.
    """
    ranked = settings.trains and needs_ranking(settings)
    if not ranked or (settings.rank.path is not None and not settings.rank.rescore):
        return False
    judge = evaluation_judge(settings)
    if all(member.by_rule for member in judge.members.values()):
        return False
    return judge.identity == settings.scorer.absolute.identity


BOUNDS = (0.1, 5.0)
"""Temperatures that are considered."""


def control_temperature(
    run: Run,
    reference: Reference,
    prompts: Rows,
    *,
    own: float,
    wanted: float,
) -> float:
    """The temperature at which the baseline's responses have the trained student's entropy.

    In two steps: the temperature that gives the responses it wrote at its own temperature that
    entropy, then, since at another temperature it writes others, a secant through the entropy of
    what it writes there.

    Args:
        reference: Of the run; its baseline is the model that is sampled.
        prompts: Of the held-out split.
        own: Entropy of the baseline's responses at its own temperature, nats per token.
        wanted: The trained student's.

    Returns:
        A temperature within BOUNDS.
    """
    first = _for_own_responses(run, reference, wanted)
    entropy = _entropy_at(run, reference, prompts, first)
    if abs(own - entropy) < 1e-6:
        return first
    step = (wanted - entropy) * (reference.baseline.temperature - first) / (own - entropy)
    return round(min(max(first + step, BOUNDS[0]), BOUNDS[1]), 4)


def _for_own_responses(run: Run, reference: Reference, wanted: float) -> float:
    """The temperature that gives the responses which the baseline wrote that entropy."""

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        matched = matching_temperature(
            bind(held_out.baseline, held_out.layout),
            _batches(held_out, reference.baseline.scored, reference.baseline.model),
            wanted,
            base_temperature=reference.baseline.temperature,
            bounds=BOUNDS,
        )
        return {"temperature": round(matched.temperature, 4)}

    identity = {
        "code": 2,
        "model": reference.baseline.model.identity,
        "answers": reference.baseline.scored.key,
        "entropy": wanted,
        "layout": run.settings.train.layout.name,
        **reference.read_identity,
    }
    what = "temperature that gives the warmed-up student the trained one's entropy"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["temperature"]


def _entropy_at(run: Run, reference: Reference, prompts: Rows, temperature: float) -> float:
    """Entropy of what the baseline writes at `temperature`, nats per token."""
    suite, baseline = reference.suite, reference.baseline.model
    if suite.read_prompts is not None:
        prompts = prompts.first(suite.read_prompts)
    count = suite.responses_per_prompt
    sampled = sample(run, baseline, prompts, "student", count, temperature=temperature)
    identity = {
        "code": 1,
        "model": baseline.identity,
        "responses": sampled.key,
        "temperature": temperature,
        "layout": run.settings.train.layout.name,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        model = bind(held_out.baseline, held_out.layout)
        return {"entropy": mean_entropy(model, _batches(held_out, sampled, baseline), temperature)}

    what = f"entropy of what it writes at temperature {temperature:.2f}"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["entropy"]


def _batches(held_out: HeldOut, answers: Rows, baseline: Model) -> Any:
    read = replace(answers, source=answers.rows[: held_out.read_prompts])
    budget, layout = held_out.max_batch_tokens, held_out.layout
    return batches_of(read.tokens(baseline), max_batch_tokens=budget, layout=layout)
