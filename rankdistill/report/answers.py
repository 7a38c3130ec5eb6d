"""`answers.jsonl`: every held-out prompt with all answers of all models, and their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.records import Group
from rankdistill.report.metrics import plain
from rankdistill.report.samples import shown

ANSWERS = "answers.jsonl"


def write_answers(groups: Mapping[str, Sequence[Group]], folder: Path) -> None:
    """One line per prompt: `prompt_id`, `messages`, `columns` that it kept, `responses` by model.

    groups: by the name of the model, as in `metrics.json`. Nothing is written where nothing was
    answered.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, answered in groups.items():
        for group in answered:
            row = {"prompt_id": group["prompt_id"], "messages": group["messages"], "responses": {}}
            if "columns" in group:
                row["columns"] = group["columns"]
            responses = rows.setdefault(group["prompt_id"], row)["responses"]
            responses[name] = [shown(response) for response in group["responses"]]
    if rows:
        lines = (json.dumps(plain(row), allow_nan=False) + "\n" for row in rows.values())
        (folder / ANSWERS).write_text("".join(lines), encoding="utf-8")
