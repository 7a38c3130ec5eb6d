"""Rules on the form of a response that IFEval does not have, most of them opposites of its own.

They are named `form:NAME`, so that nothing takes them for IFEval's: its checker does not know them.
Each takes the text and the rule's arguments, and says whether the response follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# Patterns begin where they can match once only, so that no text takes quadratic time.
SENTENCE_END = re.compile(
    r"(?<![.!?\u3002\uff01\uff1f])[.!?\u3002\uff01\uff1f]+[\"')\]*\u201d\u2019]*(?=\s|$)"
)
_COMMA = re.compile(r"\w[\"')\]*\u201d\u2019]{0,3},(?=\s+[\"'(\[*\u201c\u2018]{0,3}\w)")
_BULLET = re.compile(r"\s*(?:[-*+\u2022]|\d+[.)])\s")
_BOLD = re.compile(r"(?<![*\w])(\*{1,2})(?=[^\s*])([^\n*]+)(?<=\S)\1(?![*\w])")
_TITLE = re.compile(r"<<|^#{1,6}\s|^\W{0,3}title:", re.IGNORECASE | re.MULTILINE)
_POSTSCRIPT = re.compile(
    r"\bp\.\s?s\.?(?!\w)|^\W{0,3}(?:ps|postscript)\s*[:.-]", re.IGNORECASE | re.MULTILINE
)
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\](?!\()")
_QUOTES = re.compile(r"[\"\u201c\u201d\u201e\u00ab\u00bb]")


def count_sentences(text: str) -> int:
    """Sentences, told by their ends; text behind the last end is one more."""
    ends = list(SENTENCE_END.finditer(text))
    open_end = bool(text[ends[-1].end() :].strip()) if ends else bool(text.strip())
    return len(ends) + open_end


def _with_words(parts: Iterable[str]) -> int:
    """How many parts hold a letter or digit: marks alone are no sentence and no paragraph."""
    return sum(re.search(r"[^\W_]", part) is not None for part in parts)


def _bullets(text: str, least: int) -> bool:
    lines = [line for line in text.splitlines() if re.match(r"\s*[*-]\s+\S", line)]
    return _with_words(lines) >= least


def _postscript(text: str) -> bool:
    """A line begins with the mark and has words behind it; there is text in the lines before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        mark = re.match(r"\W{0,2}P\.\s?S\.?(?!\w)", line)
        if mark is not None:
            return _with_words(lines[:number]) > 0 and _with_words([line[mark.end() :]]) > 0
    return False


def _opening(text: str, phrase: str) -> bool:
    return text.lstrip("\"' \n").lower().startswith(phrase.lower())


def _placeholders(text: str, least: int) -> bool:
    # With letters, so that a footnote [1] is none, and neither is the text of a link.
    found = _PLACEHOLDER.findall(text)
    return sum(any(map(str.isalpha, one)) for one in found) >= least


RULES: dict[str, Callable[..., bool]] = {
    "one_sentence": lambda text: _with_words(SENTENCE_END.split(text)) == 1,
    "sentences": lambda text, least: _with_words(SENTENCE_END.split(text)) >= least,
    # Between words: a row of commas is no sentence that has them.
    "commas": lambda text, least: len(_COMMA.findall(text)) >= least,
    "one_paragraph": lambda text: len(text.strip().splitlines()) == 1,
    "paragraphs": lambda text, least: _with_words(re.split(r"\n\s*\n", text)) >= least,
    "bullets": _bullets,
    "no_bullets": lambda text: not any(map(_BULLET.match, text.splitlines())),
    # One asterisk on each side or two, as markdown has it.
    "bold": lambda text, least: _with_words(inner for _, inner in _BOLD.findall(text)) >= least,
    "no_bold": lambda text: "**" not in text and _BOLD.search(text) is None,
    "no_title": lambda text: _TITLE.search(text) is None,
    "postscript": _postscript,
    "no_postscript": lambda text: _POSTSCRIPT.search(text) is None,
    "no_ending": lambda text, phrase: phrase.strip().rstrip(".!?").lower() not in text.lower(),
    # Not even as a part of another word, since IFEval's opposite takes parts.
    "without": lambda text, words: not any(word in text.lower() for word in words),
    "opening": _opening,
    "no_opening": lambda text, phrase: not _opening(text, phrase),
    # A number with separators is one: 1,000 or 12:30.
    "digits": lambda text, least: len(re.findall(r"\d+(?:[.,:]\d+)*", text)) >= least,
    "no_digits": lambda text: re.search(r"\d", text) is None,
    "placeholders": _placeholders,
    "no_placeholders": lambda text: "[" not in text,
    "no_quotation": lambda text: _QUOTES.search(text) is None,
}
"""By the name behind `form:`."""
