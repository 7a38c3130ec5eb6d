"""Answers: those that the report shows, and the files with all of them and their demands."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from rankdistill.evaluate.model_figures import common_prompts
from rankdistill.evaluate.verified import DemandRow
from rankdistill.report.run_report import RunReport
from rankdistill.rows import Group, Response

ANSWERS = "answers.jsonl"


def answer_rows(groups: Mapping[str, Sequence[Group]]) -> list[dict[str, Any]]:
    """A row per prompt: `prompt_id`, `messages`, `columns` that it kept, `responses` by model.

    groups: by the name of the model, as in `metrics.json`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, answered in groups.items():
        for group in answered:
            row = {"prompt_id": group["prompt_id"], "messages": group["messages"], "responses": {}}
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
            "messages": [dict(m) for m in groups[trained.name][prompt]["messages"]],
            "responses": {
                model.name: _first(groups[model.name][prompt])
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


def _first(group: Group) -> dict[str, Any]:
    return shown(group["responses"][0])


def shown(response: Response) -> dict[str, Any]:
    """What a report shows of a response."""
    return {
        "text": response["text"],
        "score": response.get("score"),
        "tokens": len(response["token_ids"]),
        "cut": response["finish_reason"] == "length",
    }


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
_COLUMNS = {
    "arm": "string",
    "prompt_id": "string",
    "cluster": "string",
    "kind": "string",
    "side": "string",
    "group": "string",
    "trained": "bool",
    "answer": "int64",
    "followed": "float64",
    "opposite": "float64",
    "tokens": "int64",
    "weight": "float64",
}
"""Their types are given, since a column that has nothing but nulls does not tell its own."""


def demands_file(rows: Sequence[DemandRow]) -> dict[str, bytes]:
    """Name and content: a row per demand and answer of every arm, from which all figures can be
    computed again; empty where nothing was verified.
    """
    if not rows:
        return {}
    # Reports are also made again from metrics.json alone, which needs no `datasets`.
    from datasets import Dataset, Features, Value

    features = Features({name: Value(kind) for name, kind in _COLUMNS.items()})
    table = Dataset.from_list([row.as_dict() for row in rows], features=features)
    content = io.BytesIO()
    table.to_parquet(content)
    return {DEMANDS: content.getvalue()}
