"""The answers of two students to the same prompts, word by word."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rankdistill.errors import UserError
from rankdistill.report import read_metrics
from rankdistill.report.answers import ANSWERS
from rankdistill.store.written import check_run

Kind = Literal["same", "gone", "new"]


@dataclass(frozen=True)
class Change:
    """One prompt, and the first answer of each student."""

    prompt_id: str
    messages: Sequence[Mapping[str, str]]
    before: Mapping[str, Any]
    """text, score, tokens, cut."""
    after: Mapping[str, Any]

    @cached_property
    def similarity(self) -> float:
        """1: the same words in the same order, 0: none in common (difflib's ratio of words)."""
        return self._matcher.ratio()

    @property
    def gain(self) -> float | None:
        """Of the score; None where one has none."""
        a, b = self.before["score"], self.after["score"]
        return None if a is None or b is None else b - a

    @cached_property
    def words(self) -> list[tuple[Kind, str]]:
        """Both texts in one, in pieces that stayed, went, or came."""
        a, b = _words(self.before["text"]), _words(self.after["text"])
        pieces: list[tuple[Kind, str]] = []
        for operation, i, j, k, m in self._matcher.get_opcodes():
            if operation == "equal":
                pieces.append(("same", "".join(a[i:j])))
                continue
            if i < j:
                pieces.append(("gone", "".join(a[i:j])))
            if k < m:
                pieces.append(("new", "".join(b[k:m])))
        return pieces

    @cached_property
    def _matcher(self) -> SequenceMatcher[str]:
        texts = (_words(answer["text"]) for answer in (self.before, self.after))
        return SequenceMatcher(None, *texts, autojunk=False)


def changes(before: Path, after: Path) -> list[Change]:
    """One row per prompt, the most changed first.

    Raises:
        UserError: a run that isn't finished or kept no answers, or other prompts.
    """
    a, b = _answers(before), _answers(after)
    if a.keys() != b.keys():
        shared = len(a.keys() & b.keys())
        raise UserError(
            f"'{before}' and '{after}' were evaluated on different prompts ({len(a)} and {len(b)}, "
            f"{shared} in common): give two runs with the same prompts and the same limits."
        )
    rows = [Change(key, a[key][0], a[key][1], b[key][1]) for key in a]
    return sorted(rows, key=lambda row: (row.similarity, row.prompt_id))


def _answers(folder: Path) -> dict[str, tuple[Any, Any]]:
    """By prompt id: the prompt, and the trained student's first answer."""
    metrics = read_metrics(folder)
    check_run(folder, "model")
    file = folder / ANSWERS
    if not file.is_file():
        raise UserError(
            f"The run in '{folder}' kept no answers ({ANSWERS}): run its command again, which "
            "writes them from the store, or give a run that samples."
        )
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    name = metrics["trained"]
    return {
        row["prompt_id"]: (row["messages"], row["responses"][name][0])
        for row in rows
        if row["responses"].get(name)
    }


def _words(text: str) -> list[str]:
    """Words with the white space after them, so that joining them gives the text."""
    return re.findall(r"\s*\S+\s*|\s+", text)
