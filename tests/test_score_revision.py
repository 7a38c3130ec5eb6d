"""The teacher criticises the best response and rewrites it, in its own words."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from judge_data import group

from rankdistill.models import Rows
from rankdistill.stages import revision
from rankdistill.stages.run import Model


def test_the_best_response_is_criticised_and_rewritten(monkeypatch, tiny_dir):
    asked: dict[str, list] = {}

    def sample(run, model, prompts, source, count):
        asked[source] = prompts.rows

        def written(prompt):
            text = f"{source} of {prompt['prompt_id']}"
            return {"text": text, "token_ids": [5], "source": source, "finish_reason": "stop"}

        rows = [{**prompt, "responses": [written(prompt)]} for prompt in prompts]
        return Rows(rows, f"{prompts.key}+{source}", model)

    monkeypatch.setattr(revision, "sample", sample)
    groups = [group("p", "good {critique}", "bad"), group("q", "none"), group("r", "long" * 200)]
    for g, scores in zip(groups, ((2.0, 1.0), (math.nan,), (1.0,)), strict=True):
        for response, score in zip(g["responses"], scores, strict=True):
            response["score"] = score
    settings = SimpleNamespace(sample=SimpleNamespace(max_response_tokens=4))
    teacher = Model(str(tiny_dir), {})
    monkeypatch.setattr(revision, "max_positions", lambda folder: 900)
    run: Any = SimpleNamespace(teacher=teacher, writing_teacher=teacher, settings=settings)
    found = revision.revisions(run, Rows(groups, "scored", teacher))
    rows, key = found.rows, found.key
    # q has no score, r does not fit.
    assert [row["prompt_id"] for row in rows] == ["p"] and key.endswith("+teacher_revision")
    assert rows[0]["messages"] == groups[0]["messages"] and rows[0]["split"] == "train"
    assert rows[0]["responses"][0]["source"] == "teacher_revision"
    [first], [second] = asked["critic"], asked["teacher_revision"]
    assert "good {critique}" in first["messages"][0]["content"]
    assert "bad" not in first["messages"][0]["content"]
    assert "critic of p" in second["messages"][0]["content"]
    assert "good {critique}" in second["messages"][0]["content"]
