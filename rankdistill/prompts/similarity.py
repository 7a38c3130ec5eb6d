"""How alike two texts are: ROUGE-L, MinHash where all pairs would be too many, common n-grams.

Words are lower-cased runs of letters and digits.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rankdistill.fields import texts_in
from rankdistill.prompts.sources import read_rows, source_identity
from rankdistill.rows import Message

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


SUITES = {
    "gsm8k": "openai/gsm8k/main:test",
    "hellaswag": "Rowan/hellaswag:validation",
    "ifeval": "google/IFEval:train",
    "ifbench": "allenai/IFBench_test:train",
    "alpaca_eval": "tatsu-lab/alpaca_eval",
}
"""The data of the evaluation suites that the hub has, by the suite's name."""
LEAST_WORDS = 4
"""Of a text that is compared as a whole: a label or an answer is in many prompts."""


class Evaluated:
    """What evaluations ask, as n-grams of words, to be kept out of training.

    As GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): one n-gram in common is enough. A
    text of fewer words is compared as a whole.

    Args:
        sets: Names of `SUITES`, files, or data sets of the hub; every text in their rows counts.
        n: Words of an n-gram.

    Raises:
        UserError: there is no such file or data set.
    """

    def __init__(self, sets: Sequence[str], n: int) -> None:
        self._n = n
        self._grams: set[tuple[str, ...]] = set()
        for name in sets:
            for _, row in read_rows(SUITES.get(name, name)):
                for text in texts_in(row):
                    self._grams.update(self._of(text))

    def has_part_of(self, messages: Iterable[Message]) -> bool:
        """Whether a turn has an n-gram of an evaluated text, or is one that is shorter."""
        return any(not self._grams.isdisjoint(self._of(m["content"])) for m in messages)

    def _of(self, text: str) -> Iterator[tuple[str, ...]]:
        in_order = words(text)
        if len(in_order) < self._n:
            if len(in_order) >= LEAST_WORDS:
                yield tuple(in_order)
            return
        yield from zip(*(in_order[start:] for start in range(self._n)), strict=False)


def evaluated_identity(sets: Sequence[str], n: int) -> dict[str, Any]:
    """What determines which prompts are kept out; hashed. UserError: there is no such set."""
    return {"sets": [source_identity(SUITES.get(name, name)) for name in sets], "ngram": n}
