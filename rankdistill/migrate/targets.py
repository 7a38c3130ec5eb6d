"""`_target_`s of ours whose classes have moved."""

from __future__ import annotations

import re

from rankdistill.stages.moved import MOVED

_TARGET = re.compile(r"""(_target_["']?\s*:\s*["']?)(rankdistill(?:\.\w+)+)""")


def names_ours(text: str) -> bool:
    """Whether a YAML's text names a class of ours."""
    return _TARGET.search(text) is not None


def renamed(text: str) -> tuple[str, dict[str, str]]:
    """The text with today's names and all else as it was; the names that changed, by the old."""
    found: dict[str, str] = {}

    def today(match: re.Match[str]) -> str:
        old = match[2]
        if old in MOVED:
            found[old] = MOVED[old]
        return match[1] + MOVED.get(old, old)

    return _TARGET.sub(today, text), found
