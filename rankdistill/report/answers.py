"""Answers: those that the report shows, the lists of prompts that figures link to, and the files
with all answers and their demands."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.evaluate.model_figures import common_prompts
from rankdistill.evaluate.verified import DEMAND_COLUMNS, DemandRow
from rankdistill.report.run_report import RunReport
from rankdistill.rows import Group, Response
from rankdistill.thoughts import answer_of, has_thoughts, thought_of
from rankdistill.tool_calls import as_told

ANSWERS = "answers.jsonl"


def answer_rows(groups: Mapping[str, Sequence[Group]]) -> list[dict[str, Any]]:
    """A row per prompt: `prompt_id`, `messages`, `columns` that it kept, `responses` by model.

    groups: by the name of the model, as in `metrics.json`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, answered in groups.items():
        for group in answered:
            row = {
                "prompt_id": group["prompt_id"],
                "messages": as_told(group["messages"]),
                "responses": {},
            }
            if "columns" in group:
                row["columns"] = group["columns"]
            responses = rows.setdefault(group["prompt_id"], row)["responses"]
            responses[name] = [shown(response) for response in group["responses"]]
    return [plain(row) for row in rows.values()]


def answers_file(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Name and content, a row per line; empty where nothing was answered."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
    return {ANSWERS: "".join(lines).encode()} if rows else {}


SHOWN = 6

HOW_CHOSEN = (
    "Held-out prompts are ordered by the score difference between the trained student and the "
    "baseline, and taken at even distances from the largest loss to the largest gain. Of every "
    "model the first response sampled is shown, not its best. Scores are of that response; the "
    "difference is of the means over all responses to the prompt."
)


def choose_samples(report: RunReport) -> list[dict[str, Any]]:
    """At most `SHOWN` held-out prompts with every model's first response.

    From the prompt where the trained student loses most to the one where it gains most. Only
    prompts whose groups were handed over for both models.
    """
    models = {model.name: model for model in report.models}
    trained, baseline = models[report.trained], models[report.baseline]
    groups = {name: {g["prompt_id"]: g for g in rows} for name, rows in report.groups.items()}
    at_hand = groups.get(trained.name, {}).keys() & groups.get(baseline.name, {}).keys()
    differences = {
        prompt: trained.per_prompt[prompt].mean - baseline.per_prompt[prompt].mean
        for prompt in common_prompts(trained, baseline)
        if prompt in at_hand
    }
    ordered = sorted(differences, key=lambda prompt: (differences[prompt], prompt))
    return [
        {
            "prompt_id": prompt,
            "difference": differences[prompt],
            "position": f"{ordered.index(prompt) + 1} of {len(ordered)}",
            "messages": as_told(groups[trained.name][prompt]["messages"]),
            "responses": {
                model.name: shown(groups[model.name][prompt]["responses"][0])
                for model in report.models
                if prompt in groups.get(model.name, {}) and groups[model.name][prompt]["responses"]
            },
        }
        for prompt in spread(ordered, SHOWN)
    ]


def spread(ordered: list[str], count: int) -> list[str]:
    """`count` of the values at even distances, both ends among them."""
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def shown(response: Response) -> dict[str, Any]:
    """What a report shows of a response; what it thought stands by itself."""
    text = response["text"]
    found = {
        "text": answer_of(text),
        "score": response.get("score"),
        "tokens": len(response["token_ids"]),
        "cut": response["finish_reason"] == "length",
    }
    if not has_thoughts(text):
        return found
    thought = {"thought": thought_of(text), "thought_tokens": response.get("thought_tokens")}
    return {**found, **thought}


def plain(value: Any) -> Any:
    """The value as JSON has it: no NaN, no infinity (null instead), no tuple, no NumPy scalar."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.name
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


DEMANDS = "demands.parquet"


def demands_file(rows: Sequence[DemandRow]) -> dict[str, bytes]:
    """Name and content: a row per demand and answer of every arm, from which all figures can be
    computed again; empty where nothing was verified.
    """
    if not rows:
        return {}
    # Reports are also made again from metrics.json alone, which needs no `datasets`.
    from datasets import Dataset, Features, Value

    # Types are given, since a column that has nothing but nulls does not tell its own.
    features = Features({name: Value(kind) for name, kind in DEMAND_COLUMNS.items()})
    table = Dataset.from_list([asdict(row) for row in rows], features=features)
    content = io.BytesIO()
    table.to_parquet(content)
    return {DEMANDS: content.getvalue()}


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


def first_answers(folder: Path, name: str) -> dict[str, tuple[Any, Any]]:
    """By prompt id: its messages and the first answer of the model `name`, of a run folder.

    Raises:
        UserError: as `answers_of`.
    """
    return {
        row["prompt_id"]: (row["messages"], answers[0])
        for row in answers_of(folder)
        if (answers := row["responses"].get(name))
    }


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
    differences = {name: after[name] - before[name] for name in after.keys() & before.keys()}
    ordered = sorted(differences, key=lambda name: (differences[name], name))
    places = {name: place for place, name in enumerate(ordered, start=1)}
    return [
        Shown(
            places[name],
            differences[name],
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
    ids = {"all", *(found.id for found in lists)} if lists else set()
    wanted = {key: target for key, target in _FIGURES.items() if target in ids}
    return wanted | {found.title: found.id for found in lists if found.id.startswith("kind-")}


_FIGURES = {
    "score": "all",
    "score_difference": "gained",
    "win_rate": "gained",
    "cut_share": "cut",
    "gain, sampled": "gained",
    "trained kinds": "group-trained",
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
        ("trained", "trained kinds"),
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
        kind: {"trained", of["group"]} if of["trained"] else {"kept_out"}
        for kind, of in arm["kinds"].items()
    }


def _kinds(row: Mapping[str, Any]) -> list[str]:
    """Of the demands in the columns that a prompt kept of its source."""
    columns = row.get("columns")
    columns = json.loads(columns) if isinstance(columns, str) else columns
    demands = columns.get("demands") if isinstance(columns, Mapping) else None
    found = demands if isinstance(demands, list) else []
    kinds = (demand.get("kind") for demand in found if isinstance(demand, Mapping))
    return [kind for kind in kinds if isinstance(kind, str)]
