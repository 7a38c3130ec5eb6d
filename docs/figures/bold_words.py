"""Rules for `score=verifier`: how many words or phrases of an answer are bold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BOLD = re.compile(r"\*\*(?=\S)[^*\n]+?(?<=\S)\*\*")


def bold(text: str, columns: Mapping[str, Any]) -> float:
    """Spans between pairs of two asterisks, within a line."""
    return float(len(BOLD.findall(text)))


def near_four(text: str, columns: Mapping[str, Any]) -> float:
    """1 for four of them, and 1/4 less for each one off: a score with degrees."""
    return max(0.0, 1 - abs(bold(text, columns) - 4) / 4)
