"""The same prompts answered by each student, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.runs import FinishedRun
from rankdistill.report.answers import ANSWERS
from rankdistill.report.responses import begins

SHOWN = 200
"""Most prompts of a page; those that the students disagree on most."""


@dataclass(frozen=True)
class Answered:
    """One prompt with one response of every student."""

    prompt_id: str
    messages: Sequence[Mapping[str, str]]
    responses: dict[str, Mapping[str, Any]]
    """text, score, tokens and cut of the first one of the first seed, by the student's label."""
    means: dict[str, float]
    """Mean score over responses and the seeds that were asked it, by label."""

    @property
    def begins(self) -> str:
        """The first words of the prompt's last message."""
        return begins(self.messages)

    @property
    def disagreement(self) -> float:
        """Between the best and the worst student's mean score."""
        return max(self.means.values()) - min(self.means.values())


def answered(comparison: Comparison) -> list[Answered]:
    """The prompts that at least two students' answers are at hand for; largest disagreement first.

    A run folder keeps all answers; of one that was written before it did, the report's choice is
    taken.
    """
    if not comparison.sampled:
        return []
    given = {o.label: _answers(o.runs[0]) for o in comparison.objectives}
    found = []
    for prompt in dict.fromkeys(prompt for rows in given.values() for prompt in rows):
        rows = {label: rows[prompt] for label, rows in given.items() if prompt in rows}
        means = {o.label: m for o in comparison.ordered if (m := _mean(o, prompt)) is not None}
        if len(rows) < 2 or len(means) < len(comparison.objectives):
            continue
        found.append(
            Answered(
                prompt,
                next(iter(rows.values()))["messages"],
                {o.label: rows[o.label]["answer"] for o in comparison.ordered if o.label in rows},
                means,
            )
        )
    return sorted(found, key=lambda one: (-one.disagreement, one.prompt_id))[:SHOWN]


def _mean(objective: ObjectiveRuns, prompt: str) -> float | None:
    """Over the runs that were asked this prompt; None if one of them has no score of it."""
    asked = [run for run in objective.runs if prompt in run.prompts]
    scores = [run.metrics["models"][run.metrics["trained"]]["prompt_scores"] for run in asked]
    whole = bool(scores) and all(prompt in of for of in scores)
    return fmean(of[prompt] for of in scores) if whole else None


def _answers(run: FinishedRun) -> dict[str, dict[str, Any]]:
    """By prompt id: `messages`, and `answer`, the trained student's first."""
    name, path = run.metrics["trained"], run.folder / ANSWERS
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [(row, row["responses"].get(name, [])[:1]) for row in rows]
    else:
        found = [(s, [s["responses"][name]]) for s in run.metrics["samples"]]
    return {
        row["prompt_id"]: {"messages": row["messages"], "answer": answers[0]}
        for row, answers in found
        if answers
    }
