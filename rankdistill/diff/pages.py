"""The changes on a terminal, as Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from rich import box
from rich.table import Table
from rich.text import Text

from rankdistill.diff.changes import Change
from rankdistill.report.rendering import environment
from rankdistill.report.table import number, percent, signed

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
    page: dict[str, Any] = {"rows": rows, "before": before, "after": after}
    return _environment(escape).get_template(name).render(headline=headline(rows), **page)


@cache
def _environment(escape: bool) -> Environment:
    filters = {"number": number, "signed": signed, "percent": percent, "marked": _marked}
    return environment("rankdistill.diff", escape=escape, **filters)


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
