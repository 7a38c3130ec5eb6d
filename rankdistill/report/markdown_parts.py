"""What a report in GitHub-flavoured Markdown is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rankdistill.report.table import Cell, Grid, Line, Row, number


def figures(title: str, heads: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """A table with what its rows mean; nothing without rows."""
    if not rows:
        return []
    cells = [[inline(row.title), *(cell(each) for each in row.cells)] for row in rows]
    shown = table(["", *map(inline, heads)], cells, numbers=True)
    meaning = [f"- **{inline(row.title)}**: {inline(row.explanation)}" for row in rows]
    return [f"## {title}", shown, "\n".join(meaning)]


def grid_parts(grid: Grid) -> list[str]:
    """A table with what it says above it, and what its columns mean below."""
    shown = table(
        ["", *(inline(column.title) for column in grid.columns)],
        [_line(line, len(grid.columns)) for line in grid.lines],
        numbers=True,
    )
    explained = [column for column in grid.columns if column.explanation]
    meaning = [f"- **{inline(c.title)}**: {inline(c.explanation)}" for c in explained]
    return [f"## {grid.title}", inline(grid.about), shown, "\n".join(meaning)]


def prompt_part(
    title: str, messages: Sequence[Mapping[str, str]], responses: Mapping[str, Mapping[str, Any]]
) -> str:
    """A prompt and what was answered, by the label of who did."""
    parts = [f"### {title}"]
    for message in messages:
        parts += [f"*{inline(message['role'])}*", fenced(message["content"])]
    for label, response in responses.items():
        parts.append(f"**{inline(label)}** ({told_of(response)})")
        if response.get("thought"):
            parts += ["*thought*", fenced(response["thought"])]
        parts.append(fenced(response["text"]))
    return "\n\n".join(parts)


def _line(line: Line, columns: int) -> list[str]:
    if not line.cells:
        return [f"*{inline(line.title)}*", *("" for _ in range(columns))]
    return [inline(line.full_title), *map(cell, line.cells)]


def cell(of: Cell) -> str:
    """The value, bold where it is beyond noise, with its interval, and those of the seeds."""
    value = of.value.replace("\n", "; ")
    value = f"**{value}**" if of.beyond_noise else value
    value = f"{value} ({of.low} to {of.high})" if of.low else value
    return f"{value}; seeds {', '.join(of.per_seed)}" if of.per_seed else value


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table whose cells are Markdown already; `numbers` stand on the right."""
    lines = [head, ["---", *("---:" if numbers else "---" for _ in head[1:])]]
    lines += rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def told_of(response: Mapping[str, Any]) -> str:
    """Score and length of a response that is shown."""
    thought = response.get("thought_tokens")
    parts = [
        f"score {number(response['score'])}",
        f"{response['tokens']} tokens",
        *([f"{thought} of them thought"] if thought else []),
        *(["cut by length"] if response["cut"] else []),
    ]
    return ", ".join(parts)


def inline(text: str) -> str:
    """The text on one line, with Markdown's and HTML's special characters escaped."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;")
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)


def coded(text: str) -> str:
    """The same, but what stands between backticks stays code."""
    parts = text.split("`")
    return "".join(f"`{part}`" if i % 2 else inline(part) for i, part in enumerate(parts))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
