"""Groups with a known order, and judges of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rankdistill.models import Model
from rankdistill.score import TeacherAccess, score_groups
from rankdistill.stages.settings import _plug_in

NOBODY = TeacherAccess(Model("", {}), Model("", {}))


def group(prompt_id: str, *texts: str) -> dict[str, Any]:
    responses = [
        {"text": text, "token_ids": [5, i], "finish_reason": "stop", "source": "student"}
        for i, text in enumerate(texts)
    ]
    messages = [{"role": "user", "content": f"What is {prompt_id}?"}]
    return {
        "prompt_id": prompt_id, "split": "train", "messages": messages, "responses": responses,
    }  # fmt: skip


def scorer(option: str, **changes: Any) -> Any:
    """The scorer that `score=<option>` builds, with other keys."""
    return _plug_in("score", {**_options(option), **changes})


def _options(option: str) -> dict[str, Any]:
    node = OmegaConf.load(Path(__file__).parents[1] / "conf" / "score" / f"{option}.yaml")
    return {key: value for key, value in OmegaConf.to_container(node).items() if key != "defaults"}


def values(groups: list[dict[str, Any]], name: str) -> list[list[float]]:
    return [[response["scores"][name] for response in g["responses"]] for g in groups]


def judged(made: Any, groups: list[dict[str, Any]], **named: Any) -> list[dict[str, Any]]:
    return [row for part in score_groups(made, groups, NOBODY, **named) for row in part]  # type: ignore
