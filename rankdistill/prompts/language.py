"""Whether a text is in the language of other texts, without a model of languages."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

LEAST = 0.5
"""Share of a text's letters that must be of the scripts of the other texts."""
USUAL = 0.01
"""Share of all letters from which a script is one of theirs."""
COMMON_WORDS = 0.1
"""Share of words that must be known, of texts long enough to tell."""
LONG = 12
"""Words from which a text is long enough."""


class Language:
    """The scripts and the words of some texts: what another text is held against.

    Scripts tell languages of different letters apart, the commonest words those of the same ones.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        scripts: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        for text in texts:
            scripts.update(map(_script, filter(str.isalpha, text)))
            documents.update(set(_words(text)))
        total = sum(scripts.values())
        self._scripts = {name for name, count in scripts.items() if count >= USUAL * total}
        self._words = {word for word, _ in documents.most_common(300)}

    def has(self, text: str) -> bool:
        """Whether the text may be in it; short texts are judged by their letters alone."""
        letters = [character for character in text if character.isalpha()]
        if not letters:
            return False
        own = sum(_script(letter) in self._scripts for letter in letters)
        if own < LEAST * len(letters):
            return False
        found = _words(text)
        known = sum(word in self._words for word in found)
        return len(found) < LONG or known >= COMMON_WORDS * len(found)


def _words(text: str) -> list[str]:
    return [word for word in text.lower().split() if word.isalpha()]


@cache
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ..: the first word of a letter's name."""
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0]
