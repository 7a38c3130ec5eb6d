"""Corrections: the teacher criticises the best response to a prompt, and writes a better one.

As in self-refinement (Madaan et al. 2023, arXiv:2303.17651), one round, and the rewrite joins the
candidates instead of replacing them: the ranking decides whether it is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from rankdistill.console import result
from rankdistill.models import encode_prompt, recoded, recoding
from rankdistill.rows import Group, Prompt
from rankdistill.sample.model_folder import max_positions
from rankdistill.score.judge.prompts import Frame, delimited
from rankdistill.score.rewrite import best_response
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample

SOURCE = "teacher_revision"


def revisions(
    run: Run, groups: Sequence[Group], groups_key: Any, writer: Model
) -> tuple[list[Group], Any]:
    """One rewrite of each prompt's best response, in the writer's tokens, and what determines them.

    Prompts of which no response has a score, or whose question is too long for the teacher, have
    none.

    Args:
        groups: Scored groups.
        groups_key: What determines `groups`.
    """
    best = {
        group["prompt_id"]: top for group in groups if (top := best_response(group)) is not None
    }
    known = {group["prompt_id"]: group for group in groups if group["prompt_id"] in best}

    def asking(frame: str, **more: dict[str, str]) -> list[Prompt]:
        question = Frame((files("rankdistill.conf") / f"sample/prompts/{frame}.md").read_text())
        asked = []
        for key, group in known.items():
            parts = {name: delimited(name.upper(), texts[key]) for name, texts in more.items()}
            response = delimited("RESPONSE", best[key]["text"])
            messages = question.ask(group["messages"], response=response, **parts)
            asked.append({**_prompt(group), "messages": messages})
        return _fitting(run, asked)

    first = sample(run, run.teacher, asking("criticise"), f"{groups_key} criticised", "critic", 1)
    critiques = {row["prompt_id"]: row["responses"][0]["text"] for row in first.rows()}
    known = {key: group for key, group in known.items() if key in critiques}
    second = sample(
        run, run.teacher, asking("rewrite", critique=critiques), f"{first.key} rewritten", SOURCE, 1
    )
    written = {row["prompt_id"]: row["responses"] for row in second.rows()}
    rows: list[Any] = [
        {**_prompt(group), "responses": written[key]}
        for key, group in known.items()
        if key in written
    ]
    more = recoded(rows, run.teacher, writer, whole_prompt=True)
    changed = recoding(run.teacher, writer)
    return more, [second.key, changed] if changed else second.key


def _prompt(group: Group) -> Any:
    return {key: group[key] for key in ("prompt_id", "split", "messages")}


def _fitting(run: Run, prompts: list[Any]) -> list[Prompt]:
    """The prompts that leave the teacher room for its answer."""
    tokenizer = run.teacher.tokenizer()
    room = max_positions(run.teacher.folder) or math.inf
    most = room - run.settings.sample.max_response_tokens
    fitting = [p for p in prompts if len(encode_prompt(tokenizer, p["messages"])) <= most]
    if len(fitting) < len(prompts):
        result(f"{len(prompts) - len(fitting)} prompts are too long for the teacher to revise")
    return fitting
