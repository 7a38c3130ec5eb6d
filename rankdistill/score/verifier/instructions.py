"""IFEval's verifiable instructions (Zhou et al. 2023, arXiv:2311.07911), all 25 kinds.

Written from the paper's descriptions. Sentences are counted by their ends instead of by NLTK, which
needs a download; languages are told by langdetect.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rankdistill.errors import UserError
from rankdistill.score.verifier.forms import RULES, count_sentences

Check = Callable[[str, Mapping[str, Any]], float]
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def ifeval(column: str, pattern: str | None) -> Check:
    """The share of the prompt's instructions that the response follows; NaN where there are none.

    Columns: `instruction_id_list` and `kwargs`, as in IFEval's data; names that begin with `form:`
    are rules of `rankdistill.score.verifier.forms`.
    """

    def check(text: str, columns: Mapping[str, Any]) -> float:
        names = _plain(columns["instruction_id_list"])
        arguments = _plain(columns["kwargs"])
        followed = [follows(text, n, a or {}) for n, a in zip(names, arguments, strict=True)]
        return sum(followed) / len(followed) if followed else math.nan

    return check


def follows(text: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a response follows one instruction. UserError: there is no such instruction."""
    rule = _rule(name)
    given = {key: value for key, value in arguments.items() if value is not None}
    return bool(text.strip()) and bool(rule(text, **given))


def check_names(columns: Mapping[str, Any]) -> None:
    """UserError: a prompt names an instruction that there is not; other faults pass."""
    try:
        names = _plain(columns.get("instruction_id_list")) if "kwargs" in columns else None
    except ValueError:
        return
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str):
            _rule(name)


def _rule(name: str) -> Callable[..., bool]:
    family, _, kind = name.rpartition(":")
    rules: Mapping[str, Callable[..., bool]] = RULES if family == "form" else _KINDS
    if kind not in rules:
        raise UserError(
            f"There is no instruction '{name}', in IFEval or among the rules named `form:`: "
            "correct instruction_id_list."
        )
    return rules[kind]


def _plain(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _compared(count: int, relation: str, number: float) -> bool:
    return count < number if relation == "less than" else count >= number


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    # A mark may open or close the text; between two marks there must be something.
    inner = parts[bool(parts and not parts[0]) : len(parts) - (not parts[-1])]
    return all(inner) and len(inner) == num_paragraphs


def _nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part for part in re.split(r"\n\n", text) if part.strip()]
    if len(parts) != num_paragraphs or nth_paragraph > len(parts):
        return False
    words = parts[nth_paragraph - 1].strip().lstrip("'\"").split()
    return bool(words) and re.split(r"[.,?!'\"]", words[0])[0].lower() == first_word.lower()


def _highlights(text: str, num_highlights: int) -> bool:
    double = [m for m in re.findall(r"\*\*([^\n*]+)\*\*", text) if m.strip()]
    single = [m for m in re.findall(r"(?<!\*)\*([^\n*]+)\*(?!\*)", text) if m.strip()]
    return len(double) + len(single) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


def _bullets(text: str, num_bullets: int) -> bool:
    # White space of the line alone: over the lines before it takes quadratic time.
    lines = re.findall(r"^[^\S\n]*(?:\*[^*]|-).*$", text, re.MULTILINE)
    return len(lines) == num_bullets


def _placeholders(text: str, num_placeholders: int) -> bool:
    # As many as r"\[.*?\]" finds, which takes quadratic time on brackets that are not closed.
    closed = (part for line in text.split("\n") for part in line.split("]")[:-1])
    return sum("[" in part for part in closed) >= num_placeholders


def _json(text: str) -> bool:
    bare = re.sub(r"\A\s*```(?:json)?|```\s*\Z", "", text, flags=re.IGNORECASE).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):  # a parser may limit the depth (RFC 8259, section 9)
        return False
    return True


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = re.escape(postscript_marker.strip()).replace(r"\.", r"\.?\s?")
    return re.search(rf"^.*{marker}.*$", text, re.IGNORECASE | re.MULTILINE) is not None


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    found = re.findall(re.escape(keyword), text, re.IGNORECASE)
    return _compared(len(found), relation, frequency)


def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    words = [w for w in re.findall(r"[\w'\u2019-]+", text) if w.isupper()]
    return _compared(len(words), capital_relation, capital_frequency)


def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _language(text: str, language: str) -> bool:
    try:
        import langdetect
    except ImportError as error:
        raise UserError(
            "IFEval's response_language needs langdetect: `pip install 'rankdistill[verifier]'`."
        ) from error
    langdetect.DetectorFactory.seed = 0
    try:
        return langdetect.detect(text) == language
    except langdetect.LangDetectException:
        return False


def _in_case(text: str, language: str, upper: bool) -> bool:
    cased = text.isupper() if upper else text.islower()
    return cased and _language(text, language)


_KINDS: dict[str, Callable[..., bool]] = {
    "number_words": lambda text, relation, num_words: _compared(
        len(re.findall(r"\w+", text)), relation, num_words
    ),
    "number_sentences": lambda text, relation, num_sentences: _compared(
        count_sentences(text), relation, num_sentences
    ),
    "number_paragraphs": _number_paragraphs,
    "nth_paragraph_first_word": _nth_paragraph,
    "no_comma": lambda text: "," not in text,
    "forbidden_words": lambda text, forbidden_words: (
        not any(_has(text, w) for w in forbidden_words)
    ),
    "existence": lambda text, keywords: all(k.lower() in text.lower() for k in keywords),
    "frequency": _frequency,
    "letter_frequency": lambda text, letter, let_frequency, let_relation: _compared(
        text.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "number_highlighted_sections": _highlights,
    "multiple_sections": _sections,
    "number_bullet_lists": _bullets,
    "title": lambda text: any(
        line.partition("<<")[2].rpartition(">>")[0].strip("<> ") for line in text.split("\n")
    ),
    "json_format": _json,
    "constrained_response": lambda text: any(answer in text for answer in _ANSWERS),
    "number_placeholders": _placeholders,
    "postscript": _postscript,
    "english_lowercase": lambda text: _in_case(text, "en", upper=False),
    "english_capital": lambda text: _in_case(text, "en", upper=True),
    "capital_word_frequency": _capitals,
    "repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "two_responses": _two,
    "end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "quotation": _quoted,
    "response_language": _language,
}
