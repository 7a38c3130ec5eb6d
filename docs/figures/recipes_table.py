"""Hook of mkdocs: the shipped recipes, as their files describe themselves, on their page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MARK = "<!-- recipes -->"
LABELS = ("Needs", "Source", "Command", "Measured", "Status", "Expected")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the recipes where a page asks for them."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(
        MARK, "\n\n".join(_section(path) for path in sorted(RECIPES.glob("*.yaml")))
    )


def _section(path: Path) -> str:
    head, *lines = _comments(path)
    body = [f"## {path.stem}", head]
    for line in lines:
        label, _, rest = line.partition(":")
        if label == "Command":
            body.append(f"    {rest.strip()}")
        elif label in LABELS:
            body.append(f"**{label}:**{rest}")
        elif body[-1].startswith("    "):
            body.append(line)
        else:
            body[-1] += f" {line}"
    return "\n\n".join(body)


def _comments(path: Path) -> list[str]:
    """The lines of the file's head, without `@package`."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line and (text := line.removeprefix("#").strip()):
            lines.append(text)
    return lines
