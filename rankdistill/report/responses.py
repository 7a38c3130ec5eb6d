"""All held-out prompts with what every model wrote, and the lists of them that figures link to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.report.answers import ANSWERS, spread

Metrics = Mapping[str, Any]
MOST = 1000
"""Prompts of a page, at even distances from the largest loss to the largest gain."""


@dataclass(frozen=True)
class Shown:
    """A held-out prompt, and the first response of every model."""

    number: int
    """Its place by difference, from 1, the largest loss: its bar in "Change of every prompt"."""
    difference: float
    """Mean score of the trained student's responses minus that of the baseline's."""
    messages: Sequence[Mapping[str, str]]
    responses: Mapping[str, Mapping[str, Any]]
    """`text`, `score`, `tokens` and `cut`, by the name of the model."""
    kinds: Sequence[str]
    """Of the demands that it makes."""

    @property
    def begins(self) -> str:
        """The first words of the prompt's last message."""
        return begins(self.messages)


@dataclass(frozen=True)
class PromptList:
    """Prompts that a figure is of."""

    id: str
    """In the page, where the figure links to."""
    title: str
    numbers: Sequence[int]


def begins(messages: Sequence[Mapping[str, str]]) -> str:
    """The first words of a prompt's last message, on a line."""
    text = " ".join(messages[-1]["content"].split()) if messages else ""
    return text if len(text) <= 90 else f"{text[:89]}…"


def answers_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's `answers.jsonl`; none where it has no such file.

    Raises:
        UserError: it is not as a run wrote it.
    """
    path = folder / ANSWERS
    if not path.is_file():
        return []
    # Not splitlines, which also ends a line at what a model may write.
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise UserError(f"{path} is not as a run wrote it ({error}); take it away.") from None


def shown_prompts(metrics: Metrics, answers: Iterable[Mapping[str, Any]]) -> list[Shown]:
    """The prompts that the trained student and the baseline both answered, from the largest loss.

    Args:
        answers: Lines of `answers.jsonl`.
    """
    roles = [metrics["models"].get(metrics[role]) for role in ("trained", "baseline")]
    if not all(roles):
        return []
    after, before = (model["prompt_scores"] for model in roles if model)
    rows = {row["prompt_id"]: row for row in answers}
    found = {name: after[name] - before[name] for name in after.keys() & before.keys()}
    ordered = sorted(found, key=lambda name: (found[name], name))
    places = {name: place for place, name in enumerate(ordered, start=1)}
    return [
        Shown(
            places[name],
            found[name],
            rows[name]["messages"],
            {
                model: rows[name]["responses"][model][0]
                for model in metrics["models"]
                if rows[name]["responses"].get(model)
            },
            _kinds(rows[name]),
        )
        for name in spread([name for name in ordered if name in rows], MOST)
    ]


def prompt_lists(metrics: Metrics, shown: Sequence[Shown]) -> list[PromptList]:
    """By what became of them, by kind of demand and by group of kinds; none of them is empty."""
    return [found for found in _lists(metrics, shown) if found.numbers]


def links_of(lists: Sequence[PromptList]) -> dict[str, str]:
    """The id of a list by a row's key, or by the title of a grid's line or column."""
    ids = {found.id for found in lists}
    wanted = {key: target for key, target in _FIGURES.items() if target in ids}
    return wanted | {found.title: found.id for found in lists if found.id.startswith("kind-")}


_FIGURES = {
    "score_difference": "gained",
    "win_rate": "gained",
    "cut_share": "cut",
    "marks": "group-marks",
    "restrictions": "group-restrictions",
    "kept-out kinds": "group-kept_out",
}


def _lists(metrics: Metrics, shown: Sequence[Shown]) -> Iterator[PromptList]:
    def of(id: str, title: str, test: Any) -> PromptList:
        return PromptList(id, title, [one.number for one in shown if test(one)])

    trained = metrics["trained"]
    yield of("gained", "scored higher after training", lambda one: one.difference > 0)
    yield of("same", "scored the same", lambda one: one.difference == 0)
    yield of("lost", "scored lower after training", lambda one: one.difference < 0)
    yield of(
        "cut", "the trained student's response cut by length",
        lambda one: one.responses.get(trained, {}).get("cut"),
    )  # fmt: skip
    kinds = _kinds_of(metrics)
    for group, title in (
        ("marks", "marks"),
        ("restrictions", "restrictions"),
        ("kept_out", "kept-out kinds"),
    ):
        within = {kind for kind, groups in kinds.items() if group in groups}
        yield of(f"group-{group}", title, lambda one, within=within: within & set(one.kinds))
    for place, kind in enumerate(kinds):
        name = kind.replace("_", " ")
        yield of(f"kind-{place}", name, lambda one, kind=kind: kind in one.kinds)


def _kinds_of(metrics: Metrics) -> dict[str, set[str]]:
    """The groups of every kind that a verified run had demands of."""
    arm = ((metrics.get("verified") or {}).get("arms") or {}).get(metrics["trained"])
    if not arm:
        return {}
    return {
        kind: {of["group"]} if of["trained"] else {"kept_out"} for kind, of in arm["kinds"].items()
    }


def _kinds(row: Mapping[str, Any]) -> list[str]:
    """Of the demands in the columns that a prompt kept of its source."""
    columns = row.get("columns")
    columns = json.loads(columns) if isinstance(columns, str) else columns
    demands = columns.get("demands") if isinstance(columns, Mapping) else None
    found = demands if isinstance(demands, list) else []
    kinds = (demand.get("kind") for demand in found if isinstance(demand, Mapping))
    return [kind for kind in kinds if isinstance(kind, str)]
