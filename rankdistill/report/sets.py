"""Figures of each of several sets of prompts: the gain may come from one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rankdistill.report.run_report import RunReport
from rankdistill.report.table import Cell, Row, interval_cell, number
from rankdistill.statistics import paired_difference

TITLE = "By set of prompts"


def figures_by_set(report: RunReport) -> dict[str, Any] | None:
    """By set: held-out prompts, both students' mean scores, and the difference with its interval.

    None where all prompts are of one set, or nothing was scored.
    """
    models = {model.name: model for model in report.models}
    names = (report.baseline, report.trained)
    groups = report.groups.get(report.trained, [])
    of_prompt = {group["prompt_id"]: group["set"] for group in groups if "set" in group}
    if len(set(of_prompt.values())) < 2 or not all(name in models for name in names):
        return None
    before, after = (models[name].per_prompt for name in names)
    found = {}
    for name in dict.fromkeys(of_prompt.values()):
        shared = [p for p, of in sorted(of_prompt.items()) if of == name and p in before]
        shared = [prompt for prompt in shared if prompt in after]
        if shared:
            a, b = ([scored[p].mean for p in shared] for scored in (after, before))
            found[name] = {
                "prompts": len(shared),
                "baseline": fmean(b),
                "trained": fmean(a),
                "difference": asdict(paired_difference(a, b, seed=report.seed)),
            }
    return found


def set_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The columns: the sets; none where there is one."""
    return list(metrics.get("sets") or {})


def set_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """What the training gained on the held-out prompts of each set."""
    sets = (metrics.get("sets") or {}).values()
    gained = interval_cell(number, 0.0)
    said = {
        "prompts": ("Prompts", "Held-out prompts that both students answered."),
        "baseline": ("Score before", "Mean over prompts, of the student before training."),
        "trained": ("Score after", "Of the trained student."),
    }
    rows = [
        Row(key, title, told, [
            Cell(str(of[key]) if key == "prompts" else number(of[key])) for of in sets
        ])
        for key, (title, told) in said.items()
    ]  # fmt: skip
    told = "After minus before, paired by prompt; bold where its interval excludes 0."
    return [*rows, Row("difference", "Difference", told, [gained(of["difference"]) for of in sets])]
