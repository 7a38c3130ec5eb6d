"""Responses that are none: nothing but marks, or a loop (Holtzman et al. 2020, arXiv:1904.09751).

A rule on the form sees neither: a title over nothing has a title. Pure functions of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

FEW_WORDS = 3
"""A response with fewer words than this beside its marks is nothing but marks."""
LOOP = 0.3
"""A response of which this share of word trigrams occurred before in it is a loop."""
_NO_PHRASES = ("relation", "let_relation", "capital_relation", "language", "letter")
"""Arguments of IFEval's instructions that a response does not quote."""
# None of them looks further than its own line or mark: a response may be 100 kB of one sign.
_MARKS = (
    re.compile(r"<<(?:(?!<<|>>)[^\n])*>>"),
    re.compile(r"^[^\w\n]*P\.\s?S\.?.*$", re.IGNORECASE | re.MULTILINE),
    re.compile(r"\[[^\[\]\n]*\]"),
    re.compile(r"[*_#>\"`]+"),
)


def without_marks(text: str, phrases: Sequence[str] = ()) -> str:
    """What is left of a response when titles, postscripts, brackets, bold and phrases are out."""
    for phrase in phrases:
        text = re.sub(re.escape(phrase), " ", text, flags=re.IGNORECASE)
    for mark in _MARKS:
        text = mark.sub(" ", text)
    return text


def is_only_marks(text: str, phrases: Sequence[str] = ()) -> bool:
    """Whether fewer than `FEW_WORDS` words are left beside marks and phrases."""
    return len(re.findall(r"\w+", without_marks(text, phrases))) < FEW_WORDS


def is_loop(text: str) -> bool:
    """Whether at least `LOOP` of the word trigrams occurred before, in any case of letters."""
    words = re.findall(r"\w+", text.lower())
    trigrams = [*zip(words, words[1:], words[2:], strict=False)]
    return len(set(trigrams)) <= (1 - LOOP) * len(trigrams) if trigrams else False


def is_degenerate(text: str, columns: Mapping[str, Any]) -> bool:
    """Whether a response is a loop, or nothing but the marks and phrases that were asked for.

    A short answer without a mark is an answer.

    Args:
        text: The response's.
        columns: The prompt's; of `kwargs`, the demands' arguments, every text is a phrase.
    """
    phrases = texts_of(_read(columns.get("kwargs")))
    marked = without_marks(text, phrases) != text
    return is_loop(text) or (marked and is_only_marks(text, phrases))


def texts_of(arguments: Any) -> list[str]:
    """The texts in the arguments of demands, at any depth, that a response quotes."""
    if isinstance(arguments, str):
        return [arguments] if arguments.strip() else []
    if isinstance(arguments, Mapping):
        arguments = [value for name, value in arguments.items() if name not in _NO_PHRASES]
    inner = arguments if isinstance(arguments, Sequence) else ()
    return [text for value in inner for text in texts_of(value)]


def _read(arguments: Any) -> Any:
    """What a column of JSON text says; None for other text, as a rule of the user's may have."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None
