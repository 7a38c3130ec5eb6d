"""MT-Bench's questions, reference answers and judge prompts: the shipped files, or a user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts.sources import read_rows

PLACEHOLDERS = {
    "single-v1": ("question", "answer"),
    "single-math-v1": ("question", "ref_answer_1", "answer"),
    "single-v1-multi-turn": ("question_1", "answer_1", "question_2", "answer_2"),
    "single-math-v1-multi-turn": (
        "question_1", "ref_answer_1", "question_2", "ref_answer_2", "answer_1", "answer_2",
    ),
}  # fmt: skip
"""What the prompt of each name must have, in braces."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_questions(path: str | None) -> list[dict[str, Any]]:
    """Rows of `id`, `category` and two `turns`. UserError: a row is no question."""
    rows = _rows(path, "questions.jsonl", "questions")
    return [_question_row(row, where) for where, row in rows]


def read_references(path: str | None) -> dict[str, list[str]]:
    """The reference answers to both turns by the question's id. UserError: a row is none."""
    found = {}
    for where, row in _rows(path, "reference_answers.jsonl", "references"):
        try:
            turns = row["choices"][0]["turns"] if "choices" in row else row["turns"]
            found[str(row["question_id"])] = [str(text) for text in turns]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"A reference answer needs question_id and choices[0].turns, and {where} "
                "(eval.mt_bench.references) has not both."
            ) from error
    return found


def read_frames(path: str | None) -> dict[str, dict[str, str]]:
    """`system` and `template` by name. UserError: a prompt, or a placeholder, is missing."""
    frames = {}
    for _, row in _rows(path, "judge_prompts.jsonl", "prompts"):
        template, system = row.get("prompt_template"), row.get("system_prompt")
        if row.get("name") in PLACEHOLDERS and template:
            frames[str(row["name"])] = {"template": template, "system": system or ""}
    where = f"'{path}' (eval.mt_bench.prompts)"
    for name, needed in PLACEHOLDERS.items():
        if name not in frames:
            raise UserError(f"The judge's prompts in {where} lack '{name}': add it.")
        has = PLACEHOLDER.findall(frames[name]["template"])
        missing = [f"{{{part}}}" for part in needed if part not in has]
        if missing:
            raise UserError(
                f"The judge's prompt '{name}' in {where} lacks {' and '.join(missing)}: put "
                "them into its prompt_template."
            )
    return frames


def _rows(path: str | None, shipped: str, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a file of the user's, or of the shipped one."""
    if path is not None:
        rows = list(read_rows(path))
        if not rows:
            raise UserError(f"The file '{path}' (eval.mt_bench.{key}) has no rows: give another.")
        return rows
    with as_file(files("rankdistill.data") / "mt_bench" / shipped) as file:
        return list(read_rows(str(file)))


def _question_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) != 2 or "question_id" not in row:
        raise UserError(
            f"A question needs question_id, category and two turns, and {where} "
            "(eval.mt_bench.questions) has not."
        )
    category = str(row.get("category") or "general")
    return {"id": str(row["question_id"]), "category": category, "turns": list(map(str, turns))}
