"""The evaluate stage: every model answers the held-out prompts, the teacher scores, figures follow.

A model's figures depend on the models they are taken against, and on no other; so the points of a
sweep share those of the pruned student, the warmed-up student and the teacher. `recipe=evaluate`
has models as they are in one table; nothing is trained. Suites are the block `suites` of
`metrics.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rankdistill import console
from rankdistill.evaluate.items import ItemValues, change
from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.schema import QuickOptions
from rankdistill.evaluate.students import evaluate_model
from rankdistill.models import Rows
from rankdistill.models.files import weights_bytes
from rankdistill.rank.combine import Scale, scale_of
from rankdistill.report import RunReport
from rankdistill.rows import Group
from rankdistill.stages.agreement import check_sampler
from rankdistill.stages.comparison import (
    LABELS,
    Answers,
    Reference,
    called,
    control_temperature,
    evaluation_judge,
    label_of,
)
from rankdistill.stages.prompts import load
from rankdistill.stages.run import Model, Run
from rankdistill.stages.run_folder import write_run_folder
from rankdistill.stages.sample import sample
from rankdistill.stages.score import check_conversations, score, weights_of
from rankdistill.stages.student import student
from rankdistill.stages.verified import Verification, by_split_of, verification_of
from rankdistill.store import Partial
from rankdistill.suites.suite import Measured, Suite


def check_suites(run: Run) -> None:
    """Refuse at start-up what can be known there: a missing package, file or endpoint."""
    for suite in run.settings.suites.values():
        suite.check(run)


def measure_suites(
    run: Run, report: RunReport, models: Mapping[str, Model], labels: Mapping[str, str]
) -> None:
    """Fill the report with every suite's figures of every model, and how training changed them.

    Args:
        models: By their name in the report, in its order.
        labels: Their headings.
    """
    suites, items = {}, {}
    for name, suite in run.settings.suites.items():
        measured = {role: suite.measure(run, model, labels[role]) for role, model in models.items()}
        values = by_item(measured)
        suites[name] = {
            "version": suite.version,
            "about": suite.about(),
            "models": {role: block(labels[role], of) for role, of in measured.items()}
            | _others(suite, run),
            "changes": changes(values, report.trained, report.baseline),
        }
        items[name] = values
    report.suites, report.suite_items = suites or None, items


def _others(suite: Suite, run: Run) -> dict[str, Any]:
    """What a suite measures that is no model of the run."""
    measured_by_name = suite.others(run).items()
    return {name: block(name.replace("_", " "), measured) for name, measured in measured_by_name}


def block(label: str, measured: Measured) -> dict[str, Any]:
    """One model's part of a suite's block in `metrics.json`."""
    figures = {}
    for figure in measured.figures:
        row = asdict(replace(figure, values=None))
        del row["values"]
        figures[row.pop("key")] = row
    return {"label": label, "counts": dict(measured.counts), "figures": figures}


def by_item(measured: Mapping[str, Measured]) -> dict[str, dict[str, ItemValues]]:
    """By figure and model, of figures that are made of items."""
    found: dict[str, dict[str, ItemValues]] = {}
    for role, of in measured.items():
        for figure in of.figures:
            if figure.values is not None and figure.values.ids:
                found.setdefault(figure.key, {})[role] = figure.values
    return found


def changes(
    values: Mapping[str, Mapping[str, ItemValues]], trained: str, baseline: str
) -> dict[str, Any]:
    """By figure the paired difference of the trained model and the one before, with `items`."""
    found = {}
    for key, of in values.items():
        if trained in of and baseline in of:
            interval = change(of[trained], of[baseline])
            if interval is not None:
                items = len(set(of[trained].ids) & set(of[baseline].ids))
                found[key] = {**asdict(interval), "items": items}
    return found


@dataclass
class Evaluation:
    """The figures of a run's models against its warmed-up student and its teacher."""

    run: Run
    suite: QuickOptions
    prompts: Rows
    """Of the held-out split."""
    baseline: Model
    scale: Scale | None = None
    """Of several scorers' values: that of the baseline's answers, so that models compare."""

    def compare(
        self, models: Mapping[str, Model]
    ) -> tuple[list[ModelFigures], dict[str, list[Group]]]:
        """The figures and the scored answers of all models of a run, in the report's order.

        Args:
            models: By the name in the report; `warmed_up` and `trained` are among them.

        Returns:
            One ModelFigures per model, and by the model's name its groups, one per prompt.
        """
        # The baseline first: it sets the scale of an ensemble.
        ordered = sorted(models.items(), key=lambda item: item[0] != "warmed_up")
        # Where a scorer needs the engine's room, all of them write before any is scored.
        scorers = evaluation_judge(self.run.settings).members.values()
        first = ordered if any(scorer.on_this_machine for scorer in scorers) else []
        sampled = {name: self._sampled(model, name) for name, model in first}
        answers = {
            name: self._scored(model, name, sampled.get(name) or self._sampled(model, name))
            for name, model in ordered
        }
        reference = Reference(answers["warmed_up"], answers.get("teacher"), self.suite)
        figures = {
            name: self.figures(name, label_of(name, models), of_model, reference)
            for name, of_model in answers.items()
        }
        if self.suite.sharpening_control:
            temperature = control_temperature(
                self.run,
                reference,
                self.prompts,
                own=figures["warmed_up"].entropy or 0.0,
                wanted=figures["trained"].entropy or 0.0,
            )
            answers["sharpened"] = self.answers(models["warmed_up"], "sharpened", temperature)
            label = f"same entropy, T={temperature:.2f}"
            figures["sharpened"] = self.figures("sharpened", label, answers["sharpened"], reference)
        order = [name for name in LABELS if name in figures]
        groups = {name: list(answers[name].groups) for name in order}
        return [figures[name] for name in order], groups

    def answers(self, model: Model, name: str, temperature: float | None = None) -> Answers:
        """What `model` writes to the held-out prompts, and the teacher's scores of it."""
        return self._scored(model, name, self._sampled(model, name, temperature), temperature)

    def _sampled(self, model: Model, name: str, temperature: float | None = None) -> Rows:
        source = "teacher" if model == self.run.teacher else "student"
        count = self.suite.responses_per_prompt
        return sample(
            self.run, model, self.prompts, source, count, temperature=temperature,
            who=called(name, self.run.settings),
        )  # fmt: skip

    def _scored(
        self, model: Model, name: str, sampled: Rows, temperature: float | None = None
    ) -> Answers:
        run = self.run
        split = "validation" if self.prompts.of_splits("validation").rows else "held-out"
        what = f"{called(name, self.run.settings)}, {len(sampled)} {split} prompts"
        judge = evaluation_judge(run.settings)
        scored = score(run, sampled, what, judge, self.scale).held()
        if model == self.baseline and self.scale is None:
            self.scale = scale_of(scored.rows, weights_of(run, judge))
        used = run.settings.sample.temperature if temperature is None else temperature
        return Answers(model, scored, used, sampled.counts["tokens_per_second"])

    def figures(
        self, name: str, label: str, answers: Answers, reference: Reference
    ) -> ModelFigures:
        """The figures of one model, from the store where they were measured before."""
        settings, teacher = self.run.settings, reference.teacher
        identity = {
            "code": 1,
            "suite": self.suite.version,
            "name": name,
            "label": label,
            "model": answers.model.identity,
            "answers": answers.scored.key,
            "baseline": self.baseline.identity,
            "baseline_answers": reference.baseline.scored.key,
            "teacher": None if teacher is None else teacher.model.identity,
            "teacher_answers": None if teacher is None else teacher.scored.key,
            "temperature": answers.temperature,
            "layout": settings.train.layout.name,
            **reference.read_identity,
        }

        def make(partial: Partial) -> Mapping[str, Any]:
            held_out = reference.held_out(self.run)
            model = (
                held_out.baseline
                if answers.model == self.baseline
                else answers.model.load_on_device()
            )
            if answers.model == self.run.teacher and held_out.teacher is not None:
                model = held_out.teacher
            check_sampler(self.run, answers.model, model)
            row = evaluate_model(
                name,
                model,
                answers.groups,
                held_out,
                label=label,
                temperature=answers.temperature,
                tokenizer=None
                if reference.same_tokenizer(answers.model)
                else answers.model.tokenizer(),
            ).row()
            partial.shards().put([row])
            return {"prompts": len(answers.groups)}

        output = self.run.stage("evaluate", label, identity, make)
        row = {**output.rows()[0], "tokens_per_second": answers.tokens_per_second or None}
        row["disk_bytes"] = weights_bytes(answers.model.path)
        return ModelFigures.from_row(row)


def judge(
    run: Run,
    report: RunReport,
    quick: QuickOptions,
    prompts: Rows,
    models: Mapping[str, Model],
    labels: Mapping[str, str],
    verification: Verification | None,
) -> None:
    """Fill the report with what the judge, and a verifier, say of the models' answers.

    Args:
        models: By the name in the report; `warmed_up` is what the others are held against.
        labels: Their headings among the verified figures.
    """
    if verification is not None:
        verification.sample(models)
    evaluation = Evaluation(run, quick, prompts, models["warmed_up"])
    report.models, report.groups = evaluation.compare(models)
    if verification is not None:
        sharpened = report.temperature("sharpened")
        report.verified = verification.measure(models, labels, sharpened)


def evaluate(run: Run, report: RunReport) -> None:
    """The suites of `eval` on `base`, the student and the teacher, as far as they differ.

    Fills the report and writes the run folder, which holds nothing else.
    """
    settings = run.settings
    models, prompts = {"trained": run.start}, None
    if settings.quick is not None or settings.student.keep_layers is not None:
        prompts = load(run)
        check_conversations(run, prompts)
        models["trained"] = student(run, prompts)
    if run.base is not None:
        models = {"warmed_up": run.base, **models}
    if run.teacher not in models.values() or settings.quick is not None:
        models["teacher"] = run.teacher
    name = "student" if len(models) > 1 else "model"
    labels = {**LABELS, "warmed_up": "base", "trained": name}
    console.part("evaluate")
    if settings.quick is not None and prompts is not None and run.base is not None:
        # Between models as they are there is no training that sharpening could pass for.
        quick = replace(settings.quick, sharpening_control=False)
        by_split = by_split_of(prompts)
        verification = verification_of(run, by_split)
        judge(run, report, quick, by_split["heldout"], models, labels, verification)
        report.models = [replace(model, label=labels[model.name]) for model in report.models]
    measure_suites(run, report, models, labels)
    write_run_folder(run, report, {})
