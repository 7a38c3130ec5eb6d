"""Rows of verified demands, and groups of answers that they are made of."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rankdistill.evaluate.verified import DemandRow, Tally
from rankdistill.prompts.demands import kinds

Value = Any


def mean(of: Tally | None) -> float:
    assert of is not None
    return float(of.mean(np.ones(len(of.clusters))))


def row(kind: str = "words", followed: float = 1.0, **changes: Value) -> DemandRow:
    group = kinds()[kind].group if kind in kinds() else "other"
    values = {
        "arm": "trained", "prompt_id": "p", "cluster": "c", "side": kind, "trained": True,
        "answer": 0, "opposite": 1.0 - followed, "tokens": 5,
    }  # fmt: skip
    return DemandRow(**{**values, "kind": kind, "group": group, "followed": followed, **changes})


def rows_of(values: dict[str, list[float]], kind: str = "words", **changes: Value) -> list[Value]:
    """One row per value; the key is cluster and prompt."""
    return [
        row(kind, value, cluster=name, prompt_id=f"{name}{i}", **changes)
        for name, of in values.items()
        for i, value in enumerate(of)
    ]


def group(columns: Value, *texts: str, scores: Value = None, **more: Value) -> Value:
    responses = [{"text": text, "token_ids": [7] * len(text.split())} for text in texts]
    for response, score in zip(responses, scores or [1.0] * len(texts), strict=True):
        response |= {} if score is None else {"score": score}
    return {"prompt_id": "p", "columns": json.dumps(columns), "responses": responses, **more}
