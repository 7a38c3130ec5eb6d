"""Prompts that say what an evaluation asks: found by n-grams of words, and kept out of training.

As GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): one n-gram in common is enough. A text
of fewer words is compared as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rankdistill.prompts.similarity import words
from rankdistill.prompts.sources import read_rows, source_identity
from rankdistill.rows import Message

SUITES = {
    "gsm8k": "openai/gsm8k/main:test",
    "hellaswag": "Rowan/hellaswag:validation",
    "ifeval": "google/IFEval:train",
    "alpaca_eval": "tatsu-lab/alpaca_eval",
}
"""The data of the evaluation suites that the hub has, by the suite's name."""
LEAST_WORDS = 4
"""Of a text that is compared as a whole: a label or an answer is in many prompts."""


class Evaluated:
    """What evaluations ask, as n-grams.

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
                for text in _texts(row):
                    self._grams.update(self._of(text))

    def has_part_of(self, messages: Iterable[Message]) -> bool:
        """Whether a turn has an n-gram of an evaluated text, or is one that is shorter."""
        return any(not self._grams.isdisjoint(self._of(m["content"])) for m in messages)

    def _of(self, text: str) -> Iterator[tuple[str, ...]]:
        found = words(text)
        if len(found) < self._n:
            if len(found) >= LEAST_WORDS:
                yield tuple(found)
            return
        yield from zip(*(found[start:] for start in range(self._n)), strict=False)


def evaluated_identity(sets: Sequence[str], n: int) -> dict[str, Any]:
    """What determines which prompts are kept out; hashed. UserError: there is no such set."""
    return {"sets": [source_identity(SUITES.get(name, name)) for name in sets], "ngram": n}


def _texts(value: Any) -> Iterator[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
