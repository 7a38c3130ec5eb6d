"""`recipe=evaluate`: models as they are, in one table; nothing is trained."""

from __future__ import annotations

from dataclasses import replace

from rankdistill import console
from rankdistill.report import RunReport
from rankdistill.stages.comparison import LABELS
from rankdistill.stages.evaluate import Evaluation
from rankdistill.stages.prompts import load
from rankdistill.stages.run import Model, Run
from rankdistill.stages.run_folder import write_run_folder
from rankdistill.stages.score import check_conversations
from rankdistill.stages.student import student
from rankdistill.stages.suites import measure_suites
from rankdistill.stages.verified import by_split_of, verification_of


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
    labels = {**LABELS, "warmed_up": "base", "trained": _student(models)}
    console.part("evaluate")
    if settings.quick is not None and prompts is not None and run.base is not None:
        # Between models as they are there is no training that sharpening could pass for.
        quick = replace(settings.quick, sharpening_control=False)
        by_split = by_split_of(prompts)
        verification = verification_of(run, by_split)
        if verification is not None:
            verification.sample(models)
        evaluation = Evaluation(run, quick, by_split["heldout"], run.base)
        figures, report.groups = evaluation.compare(models)
        report.models = [replace(model, label=labels[model.name]) for model in figures]
        if verification is not None:
            report.verified = verification.measure(models, labels, None)
    report.suites = measure_suites(run, models, labels)
    write_run_folder(run, report, {})


def _student(models: dict[str, Model]) -> str:
    return "student" if len(models) > 1 else "model"
