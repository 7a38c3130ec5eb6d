"""Hook of mkdocs: every key of `conf/`, as the comments there explain it, on one page."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rankdistill.app.start_page import Key, keys

MARK = "<!-- keys -->"
GROUPS = (
    "The run itself", "prompts", "teacher", "student", "warmup", "sample", "score", "rank",
    "retrieval", "cluster", "reward", "objective", "train", "eval", "hardware", "The planner",
)  # fmt: skip
"""In the order of a run."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the keys where a page asks for them."""
    return markdown.replace(MARK, "\n\n".join(_sections())) if MARK in markdown else markdown


def _sections() -> list[str]:
    sections = []
    ordered = sorted(keys(), key=lambda key: GROUPS.index(_group(key)))
    for group, found in groupby(ordered, key=_group):
        sections.append(f"## {group}")
        for option, of in groupby(found, key=lambda key: key.option):
            rows = [_row(key) for key in of if key.comment]
            if rows:
                head = [f"### `{option}`\n"] if option else []
                table = ["| key | default | |", "|---|---|---|", *rows]
                sections.append("\n".join([*head, *table]))
    return sections


def _group(key: Key) -> str:
    if key.name.startswith("eval."):
        return "eval"
    if not key.option:
        return "The run itself"
    return key.option.partition("=")[0] if "=" in key.option else "The planner"


def _row(key: Key) -> str:
    cells = (f"`{key.name}`", f"`{key.default}`" if key.default else "", key.comment)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"
