"""A rule for `score=verifier`: how many words or phrases of an answer are bold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BOLD = re.compile(r"\*\*(?=\S)[^*\n]+?(?<=\S)\*\*")


def bold(text: str, columns: Mapping[str, Any]) -> float:
    """Spans between pairs of two asterisks, within a line."""
    return float(len(BOLD.findall(text)))
