"""Checks of a response against an answer, a pattern, a schema or a task's own scorer.

Each function here takes the name of the column and a fixed pattern, and returns the check.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError

Check = Callable[[str, Mapping[str, Any]], float]
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?|-?\.\d+")
_INSTALL = "`pip install 'rankdistill[verifier]'`"


def between(text: str, opening: str, closing: str) -> list[str]:
    """What stands between the marks, in order; in linear time, unlike a pattern with `.*?`."""
    found, end = [], 0
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        if (closed := text.find(closing, start)) < 0:
            break
        found.append(text[start:closed])
        end = closed + len(closing)
    return found


def number(column: str, pattern: str | None) -> Check:
    """1 where the response ends with the number that the answer ends with, as in GSM8K.

    Of either the number in ``\\boxed{}`` or after ``####`` counts, else the last one.
    """

    def check(text: str, columns: Mapping[str, Any]) -> float:
        expected = final_number(str(columns[column]))
        if expected is None:
            raise UserError(
                f"The answer {columns[column]!r} (score.column={column}) has no number."
            )
        return float(final_number(text) == expected)

    return check


def final_number(text: str) -> Fraction | None:
    """The number that a solution ends with; None without one."""
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    marked = text.rpartition("####")[2] if "####" in text else ""
    for part in (boxed[-1] if boxed else "", marked, text):
        found = _NUMBER.findall(part)
        if found:
            # After the mark the first number is the answer, in free text the last one.
            told = found[0 if part is marked else -1]
            return _fraction(told)
    return None


def _fraction(told: str) -> Fraction | None:
    above, _, below = re.sub(r"[\s,$]", "", told).partition("/")
    try:
        return Fraction(above) / Fraction(below or "1")
    except (ValueError, ZeroDivisionError):
        return None


def math_verify(column: str, pattern: str | None) -> Check:
    """1 where the response's final expression equals the answer's, by math-verify."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError(f"score.rule=math needs math-verify: {_INSTALL}.") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def check(text: str, columns: Mapping[str, Any]) -> float:
        answer = str(columns[column])
        # The limit of the whole check takes the place of math-verify's own, which say 0.
        gold, told = (
            parse(given, parsing_timeout=0)
            for given in (answer if "$" in answer or "\\" in answer else f"${answer}$", text)
        )
        return float(bool(verify(gold, told, timeout_seconds=0)))

    return check


def regex(column: str, pattern: str | None) -> Check:
    """1 where the pattern, `pattern` or else the prompt's own, is found in the response."""
    fixed = None if pattern is None else _compiled(pattern)

    def check(text: str, columns: Mapping[str, Any]) -> float:
        return float((fixed or _compiled(str(columns[column]))).search(text) is not None)

    return check


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{pattern!r} (score.pattern) is no regular expression: {error}."
        ) from error


def json_schema(column: str, pattern: str | None) -> Check:
    """1 where the response is JSON, fenced or not, that the schema allows.

    The schema is `pattern`, a file or the JSON itself, or else the prompt's own.
    """
    try:
        import jsonschema
    except ImportError as error:
        raise UserError(f"score.rule=json_schema needs jsonschema: {_INSTALL}.") from error
    fixed = None if pattern is None else _schema(_read(pattern), jsonschema)

    def check(text: str, columns: Mapping[str, Any]) -> float:
        validator = fixed or _schema(columns[column], jsonschema)
        fenced = between(text, "```", "```")
        try:
            value = _strictly(fenced[0].removeprefix("json").lstrip() if fenced else text)
        except (ValueError, RecursionError):  # a parser may limit the depth (RFC 8259, section 9)
            return 0.0
        return float(validator.is_valid(value))

    return check


def _strictly(text: str) -> Any:
    """The value of JSON as RFC 8259 has it; Python's parser takes NaN and Infinity too."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _schema(given: Any, jsonschema: Any) -> Any:
    """A validator; a string is the schema's JSON, never a file: data sets have strings too."""
    from jsonschema_specifications import REGISTRY

    try:
        given = _strictly(given) if isinstance(given, str) else given
        kind = jsonschema.validators.validator_for(given)
        kind.check_schema(given)
        # The published drafts and nothing else: a `$ref` to another place is not fetched.
        return kind(given, registry=REGISTRY)
    except (ValueError, TypeError, RecursionError, jsonschema.SchemaError) as error:
        raise UserError(
            f"The JSON schema of score.rule=json_schema is none: {str(error).splitlines()[0]}"
        ) from error


def _read(pattern: str) -> str:
    """The schema in `score.pattern`, a file or the JSON itself."""
    if pattern.lstrip().startswith("{"):
        return pattern
    try:
        return Path(pattern).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The JSON schema of score.pattern can't be read from {pattern}: {error}."
        ) from error


def reasoning_gym(column: str, pattern: str | None) -> Check:
    """The score that reasoning-gym's own `score_answer` gives, in [0, 1].

    Columns: `question`, `answer` and `metadata`, as reasoning-gym makes them; its metadata name the
    data set. What the response has between <answer> marks is scored, else all of it.
    """
    try:
        from reasoning_gym.factory import get_score_answer_fn
    except ImportError as error:
        raise UserError(f"score.rule=reasoning_gym needs reasoning-gym: {_INSTALL}.") from error
    functions: dict[str, Any] = {}

    def check(text: str, columns: Mapping[str, Any]) -> float:
        metadata = columns["metadata"]
        entry = {
            **columns,
            "metadata": json.loads(metadata) if isinstance(metadata, str) else metadata,
        }
        name = entry["metadata"]["source_dataset"]
        if name not in functions:
            functions[name] = get_score_answer_fn(name)
        marked = between(text, "<answer>", "</answer>")
        return functions[name]((marked[-1] if marked else text).strip(), entry)

    return check
