"""The words of reports, comparisons, the terminal and `metrics.json`, from `templates/words.md`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Word(NamedTuple):
    """A word, the key that `metrics.json` has for it, and what it means."""

    word: str
    key: str
    meaning: str


def _words() -> list[Word]:
    _, _, *rows = (Path(__file__).parent / "templates/words.md").read_text("utf-8").splitlines()
    cells = (row.strip("|").split("|") for row in rows)
    return [Word(word.strip(), key.strip(" `"), meaning.strip()) for word, key, meaning in cells]


WORDS = _words()
