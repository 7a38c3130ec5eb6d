"""What a judge is asked: a frame for the mode, a criterion for the aspect, the material delimited.

Frames and criteria are text files; those that are shipped are in `conf/score/prompts/`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.store.inputs import read_text
from rankdistill.tool_calls import as_told

PLACEHOLDERS = {
    "pointwise": ("conversation", "response", "criterion", "answer"),
    "pairwise": ("conversation", "first", "second", "criterion", "answer"),
    "listwise": ("conversation", "responses", "criterion", "answer"),
    "rubric": ("conversation", "response", "criterion", "answer"),
}
"""What the frame of a mode must have, in braces."""
FRAMES = {**{name: name for name in PLACEHOLDERS}, "tournament": "pairwise"}
"""The frame that a mode, or a checklist, uses."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Frame:
    """The question of a mode, with placeholders."""

    text: str

    def ask(self, messages: Sequence[Mapping[str, Any]], **parts: str) -> list[dict[str, str]]:
        """The judge's conversation. Text that is put in is never searched for placeholders."""
        told = "\n\n".join(f"{m['role']}: {m['content']}" for m in as_told(messages))
        filled = {**parts, "conversation": delimited("CONVERSATION", told)}
        text = _PLACEHOLDER.sub(lambda found: filled.get(found[1], found[0]), self.text)
        return [{"role": "user", "content": text}]


def delimited(name: str, text: str) -> str:
    """The text between two marks that it cannot contain, since they hold its own hash."""
    mark = f"{name} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    return f"<<<BEGIN {mark}>>>\n{text}\n<<<END {mark}>>>"


def load_frame(mode: str, path: str | None, key: str = "score.prompt") -> Frame:
    """The frame of a mode: a file of the user's, which `key` names, or the shipped one.

    Raises:
        UserError: no such file, or a placeholder is missing.
    """
    kind = FRAMES[mode]
    where = path or f"{kind}.md"
    text = read_text(path, key) if path else _text(_shipped() / where)
    missing = [name for name in PLACEHOLDERS[kind] if name not in _PLACEHOLDER.findall(text)]
    if missing:
        lacks = " and ".join(f"{{{name}}}" for name in missing)
        raise UserError(
            f"The judge's prompt '{where}' lacks {lacks}: mode {mode} needs "
            f"{', '.join(f'{{{name}}}' for name in PLACEHOLDERS[kind])} in it."
        )
    return Frame(text.strip())


def load_criterion(aspect: str) -> tuple[str, str]:
    """(name, text) of an aspect: a shipped one by its name, or a file of the user's.

    Raises:
        UserError: neither.
    """
    shipped = {file.name.removesuffix(".md"): file for file in (_shipped() / "aspects").iterdir()}
    if aspect in shipped:
        return aspect, _text(shipped[aspect]).strip()
    path = Path(aspect).expanduser()
    if path.suffix or path.is_file():
        return path.stem, read_text(path, "score.aspects").strip()
    raise UserError(
        f"There is no aspect '{aspect}' (score.aspects) and no file of that name: "
        f"{suggest(aspect, shipped)}"
    )


def _shipped() -> Traversable:
    return files("rankdistill.conf") / "score" / "prompts"


def _text(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")
