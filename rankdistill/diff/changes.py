"""The answers of two students to the same prompts, word by word, on a terminal, as Markdown and as
one HTML page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from rankdistill.errors import UserError
from rankdistill.report import read_metrics
from rankdistill.report.answers import ANSWERS, first_answers
from rankdistill.report.rendering import environment
from rankdistill.report.table import number, percent, signed
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
    if not (folder / ANSWERS).is_file():
        raise UserError(
            f"The run in '{folder}' kept no answers ({ANSWERS}): run its command again, which "
            "writes them from the store, or give a run that samples."
        )
    return first_answers(folder, metrics["trained"])


def _words(text: str) -> list[str]:
    """Words with the white space after them, so that joining them gives the text."""
    return re.findall(r"\s*\S+\s*|\s+", text)


STYLES = {"same": "", "gone": "red strike", "new": "green"}


def headline(rows: Sequence[Change]) -> str:
    """One sentence about all prompts."""
    same = sum(row.before["text"] == row.after["text"] for row in rows)
    gains = [row.gain for row in rows if row.gain is not None]
    better = sum(gain > 0 for gain in gains)
    scored = f"; {better} of {len(gains)} score higher" if gains else ""
    return f"{len(rows) - same} of {len(rows)} first answers changed{scored}."


def terminal_table(rows: Sequence[Change], before: str, after: str) -> Table:
    """One row per prompt: what went is struck out, what came is green."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    table.add_column("prompt", ratio=1)
    table.add_column(f"{before} → {after}", ratio=3)
    table.add_column("kept", justify="right")
    table.add_column("score", justify="right")
    for row in rows:
        words = Text.assemble(*((text, STYLES[kind]) for kind, text in row.words))
        gain = "" if row.gain is None else signed(row.gain)
        prompt = Text(row.messages[-1]["content"])
        table.add_row(prompt, words, percent(row.similarity), gain)
    return table


def markdown(rows: Sequence[Change], before: str, after: str) -> str:
    """The page as Markdown: ~~what went~~, **what came**."""
    return _render("diff.md.j2", False, rows, before, after)


def html(rows: Sequence[Change], before: str, after: str) -> str:
    """One file that needs nothing else; everything in it is escaped."""
    return _render("diff.html.j2", True, rows, before, after)


def _render(name: str, escape: bool, rows: Sequence[Change], before: str, after: str) -> str:
    filters = {"number": number, "signed": signed, "percent": percent, "marked": _marked}
    template = environment("rankdistill.diff", escape=escape, **filters).get_template(name)
    return template.render(headline=headline(rows), rows=rows, before=before, after=after)


def _marked(piece: tuple[str, str]) -> str:
    """A piece in Markdown; white space stays outside the marks, special characters are escaped."""
    kind, text = piece
    mark = {"same": "", "gone": "~~", "new": "**"}[kind]
    lines = []
    for line in text.split("\n"):
        bare = line.strip()
        for special in "\\`*_[]<>#|~":
            bare = bare.replace(special, f"\\{special}")
        start = line[: len(line) - len(line.lstrip())]
        end = line[len(line.rstrip()) :] if line.strip() else ""
        lines.append(f"{start}{mark}{bare}{mark}{end}" if bare else line)
    return "\n".join(lines)
