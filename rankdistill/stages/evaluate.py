"""The evaluate stage: every model answers the held-out prompts, the teacher scores, figures follow.

A model's figures depend on the models they are taken against, and on no other; so the points of a
sweep share those of the pruned student, the warmed-up student and the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.schema import QuickOptions
from rankdistill.evaluate.students import evaluate_model
from rankdistill.models.files import weights_bytes
from rankdistill.rank.combine import Scale, scale_of
from rankdistill.rows import Group, Prompt
from rankdistill.score.ensemble import merged
from rankdistill.stages.comparison import LABELS, Answers, Reference, evaluation_judge, label_of
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.score import Outputs, score
from rankdistill.stages.sharpening import control_temperature
from rankdistill.store import Partial


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

    def compare(
        self, models: Mapping[str, Model]
    ) -> tuple[list[ModelFigures], dict[str, list[Group]]]:
        """The figures and the scored answers of all models of a run, in the report's order.

        Args:
            models: By the name in the report; `warmed_up`, `trained` and `teacher` are among them.

        Returns:
            One ModelFigures per model, and by the model's name its groups, one per prompt.
        """
        # The baseline first: it sets the scale of an ensemble.
        ordered = sorted(models.items(), key=lambda item: item[0] != "warmed_up")
        answers = {name: self.answers(model, name) for name, model in ordered}
        reference = Reference(answers["warmed_up"], answers["teacher"], self.suite)
        figures = {
            name: self.figures(name, label_of(name, models), of_model, reference)
            for name, of_model in answers.items()
        }
        if self.suite.sharpening_control:
            temperature = control_temperature(
                self.run,
                reference,
                self.prompts,
                self.prompts_key,
                own=figures["warmed_up"].entropy or 0.0,
                wanted=figures["trained"].entropy or 0.0,
            )
            answers["sharpened"] = self.answers(models["warmed_up"], "sharpened", temperature)
            label = f"{label_of('warmed_up', models)}, T={temperature:.2f}"
            figures["sharpened"] = self.figures("sharpened", label, answers["sharpened"], reference)
        order = [name for name in LABELS if name in figures]
        groups = {name: answers[name].groups for name in order}
        return [figures[name] for name in order], groups

    def answers(self, model: Model, name: str, temperature: float | None = None) -> Answers:
        """What `model` writes to the held-out prompts, and the teacher's scores of it."""
        run = self.run
        count = self.suite.responses_per_prompt
        source = "teacher" if model == run.teacher else "student"
        who = LABELS.get(name, name)
        sampled = sample(
            run, model, self.prompts, self.prompts_key, source, count,
            temperature=temperature, who=who,
        )  # fmt: skip
        groups: list[Any] = sampled.rows()
        split = "validation" if groups and groups[0]["split"] == "validation" else "held-out"
        what = f"{who}, {len(groups)} {split} prompts"
        scored = score(run, groups, sampled.key, model, what, evaluation_judge(run.settings))
        if isinstance(scored, Outputs) and model == self.baseline and self.scale is None:
            self.scale = scale_of(merged([o.rows() for o in scored.outputs]), scored.weights)  # type: ignore[arg-type]
        used = run.settings.sample.temperature if temperature is None else temperature
        speed = sampled.manifest["counts"]["tokens_per_second"]
        return Answers(model, scored, used, speed, self.scale)

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
