"""How alike two texts are: ROUGE-L, and MinHash where all pairs would be too many.

Words are lower-cased runs of letters and digits.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")
_PRIME = (1 << 61) - 1
HASHES = 128
BANDS = 64
"""Of two hashes each: texts with a Jaccard index of 0.3 meet in one of them with 99.8 %."""


def words(text: str) -> list[str]:
    """The words that texts are compared by."""
    return _WORD.findall(text.lower())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence (Lin 2004), in [0, 1]; 1 only for equal words.

    >>> round(rouge_l(words("Name a red fruit"), words("name one red fruit, please")), 3)
    0.667
    """
    if not a or not b:
        return 0.0
    return 2 * _common(a, b) / (len(a) + len(b))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence: a row of the table is the bits of one integer.

    Hyyro 2004: additions carry along a whole row, so it takes ``len(b)`` steps.
    """
    places: dict[str, int] = defaultdict(int)
    for index, word in enumerate(a):
        places[word] |= 1 << index
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        kept = row & places[word] if word in places else 0
        row = ((row + kept) | (row - kept)) & full
    return len(a) - row.bit_count()


class NearDuplicates:
    """Finds what is too like a text among those that were added before.

    Args:
        threshold: ROUGE-L F1 from which two texts are duplicates (0.7 in self-instruct).

    MinHash over words names the candidates, ROUGE-L decides. Two texts with a ROUGE-L of r share
    words with a Jaccard index of at least ``r / (2 - r)`` (of their multisets; 0.54 at 0.7).
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[list[str]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        generator = np.random.default_rng(0)
        self._scale, self._shift = generator.integers(1, _PRIME, (2, HASHES, 1), dtype=np.int64)

    def add(self, text: str) -> None:
        """Remember a text."""
        tokens = words(text)
        for key in self._keys(tokens):
            self._buckets[key].append(len(self._texts))
        self._texts.append(tokens)

    def has_one_like(self, text: str) -> bool:
        """Whether a text that was added is this one, or nearly."""
        tokens = words(text)
        candidates = {index for key in self._keys(tokens) for index in self._buckets.get(key, ())}
        return any(rouge_l(tokens, self._texts[i]) >= self._threshold for i in candidates)

    def _keys(self, tokens: Sequence[str]) -> list[tuple[int, bytes]]:
        """One per band. Repeated words count apart: the second `a` is another element."""
        seen: dict[str, int] = defaultdict(int)
        elements = []
        for word in tokens:
            seen[word] += 1
            elements.append(zlib.crc32(f"{word} {seen[word]}".encode()))
        if not elements:
            return []
        values = np.array(elements, dtype=np.int64) + 1
        # Products may wrap around: all that counts is another order of the values each time.
        mixed = (self._scale * values + self._shift) % _PRIME
        bands = mixed.min(axis=1).reshape(BANDS, -1)
        return [(number, band.tobytes()) for number, band in enumerate(bands)]
