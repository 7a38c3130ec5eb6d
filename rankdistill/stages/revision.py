"""Corrections: the teacher criticises the best response to a prompt, and writes a better one.

As in self-refinement (Madaan et al. 2023, arXiv:2303.17651), one round, and the rewrite joins the
candidates instead of replacing them: the ranking decides whether it is better.
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

from rankdistill.console import result
from rankdistill.models import Rows, ServedModel, encode_prompt
from rankdistill.rows import Group, Prompt
from rankdistill.sample.model_folder import max_positions
from rankdistill.score.judge.prompts import Frame, delimited
from rankdistill.score.rewrite import best_response
from rankdistill.stages.run import Run
from rankdistill.stages.sample import sample
from rankdistill.thoughts import answer_of, thinks

SOURCE = "teacher_revision"


def revisions(run: Run, groups: Rows) -> Rows:
    """One rewrite of each prompt's best response, in the tokens of the scored groups.

    Prompts of which no response has a score, or whose question is too long for the teacher, have
    none.
    """
    groups = groups.held()
    assert groups.writer is not None
    best = {
        group["prompt_id"]: top for group in groups if (top := best_response(group)) is not None
    }
    known = {group["prompt_id"]: group for group in groups if group["prompt_id"] in best}

    def asking(key: str, frame: str, **more: dict[str, str]) -> Rows:
        question = Frame((files("rankdistill.conf") / f"sample/prompts/{frame}.md").read_text())
        asked = []
        for name, group in known.items():
            parts = {part: delimited(part.upper(), texts[name]) for part, texts in more.items()}
            response = delimited("RESPONSE", answer_of(best[name]["text"]))
            messages = question.ask(group["messages"], response=response, **parts)
            asked.append({**_prompt(group), "messages": messages})
        return Rows(_fitting(run, asked), key)

    key = f"{groups.key} criticised" + " without thoughts" * thinks(known.values())
    asked = asking(key, "criticise")
    first = sample(run, run.writing_teacher, asked, "critic", 1)
    critiques = {row["prompt_id"]: answer_of(row["responses"][0]["text"]) for row in first}
    known = {name: group for name, group in known.items() if name in critiques}
    key = f"{first.key} rewritten" + " without thoughts" * thinks(first)
    asked = asking(key, "rewrite", critique=critiques)
    second = sample(run, run.writing_teacher, asked, SOURCE, 1)
    written = {row["prompt_id"]: row["responses"] for row in second}
    rows = [
        {**_prompt(group), "responses": written[name]}
        for name, group in known.items()
        if name in written
    ]
    return replace(second, source=rows).recoded(groups.writer, whole_prompt=True)


def _prompt(group: Group) -> Any:
    return {key: group[key] for key in ("prompt_id", "split", "messages")}


def _fitting(run: Run, prompts: list[Any]) -> list[Prompt]:
    """The prompts that leave the teacher room for its answer; a server itself refuses others."""
    if isinstance(run.writing_teacher, ServedModel):
        return prompts
    tokenizer = run.teacher.tokenizer()
    room = max_positions(run.teacher.folder) or math.inf
    most = room - run.settings.sample.max_response_tokens
    fitting = [p for p in prompts if len(encode_prompt(tokenizer, p["messages"])) <= most]
    if len(fitting) < len(prompts):
        result(f"{len(prompts) - len(fitting)} prompts are too long for the teacher to revise")
    return fitting
