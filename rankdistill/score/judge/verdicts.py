"""The form of a judge's answer: the JSON schema it must have, and its reading, which never guesses.

Ratings are words, one to ten: "10" is two tokens for many tokenizers and shares its first with "1",
so the distribution of the answer's first token could not be told apart into ratings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from string import ascii_uppercase
from typing import Any

from rankdistill.thoughts import CLOSE, answer_of

RATINGS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LETTERS = ascii_uppercase
ENUMERATED = 5
"""Up to so many responses, every order is an option of its own, so that none can be invalid."""
_REASONS = 600
_FENCE = re.compile(r"\A```(?:json)?(.*)```\Z", re.DOTALL)

Step = tuple[str, dict[str, float]]
"""A token of the answer, and the log-probabilities of the likeliest at its place."""


@dataclass(frozen=True)
class Reply:
    """What the judge wrote."""

    text: str
    steps: Sequence[Step] = ()
    """Empty where log-probabilities were not asked for, or not given."""

    @property
    def answer(self) -> str:
        """The text without what was thought before it."""
        return answer_of(self.text)


@dataclass(frozen=True)
class Form:
    """An answer's schema, how it is described to the judge, and how it is read."""

    schema: dict[str, Any]
    """Empty for free text."""
    told: str
    read: Callable[[Reply], Any]
    """The verdict; None where the answer is not of this form."""
    logprobs: bool = False


def rating_form(*, expected: bool, explain: bool) -> Form:
    """A rating in [1, 10]; `expected`: the mean over the distribution of the answer's token."""

    def read(reply: Reply) -> float | None:
        word = _value(reply.text, "rating", explain)
        if word not in RATINGS:
            return None
        return expected_rating(reply, word) if expected else float(RATINGS.index(word) + 1)

    options = {"type": "string", "enum": list(RATINGS)}
    return _form("rating", options, '"one" | "two" | ... | "ten"', read, explain, expected)


def duel_form(*, explain: bool) -> Form:
    """The ranks of the first and the second response: (0, 1), (1, 0) or (0, 0)."""
    verdicts = {"first": (0, 1), "second": (1, 0), "tie": (0, 0)}

    def read(reply: Reply) -> tuple[int, int] | None:
        return verdicts.get(str(_value(reply.text, "better", explain)))

    options = {"type": "string", "enum": list(verdicts)}
    return _form("better", options, '"first" | "second" | "tie"', read, explain)


def choice_form(name: str, options: Sequence[str], *, explain: bool) -> Form:
    """One of some words."""

    def read(reply: Reply) -> str | None:
        word = _value(reply.text, name, explain)
        return word if isinstance(word, str) and word in options else None

    told = " | ".join(f'"{word}"' for word in options)
    return _form(name, {"type": "string", "enum": list(options)}, told, read, explain)


def order_form(count: int, *, explain: bool) -> Form:
    """The rank of each of `count` responses, in the order in which they were shown."""
    letters = LETTERS[:count]

    def read(reply: Reply) -> tuple[int, ...] | None:
        order = _value(reply.text, "order", explain)
        named = order.split(" ") if isinstance(order, str) else order
        if not isinstance(named, list) or sorted(map(str, named)) != list(letters):
            return None
        return tuple(named.index(letter) for letter in letters)

    if count <= ENUMERATED:
        orders = [" ".join(order) for order in permutations(letters)]
        options: dict[str, Any] = {"type": "string", "enum": orders}
        told = f'"{orders[0]}" | "{orders[-1]}" | ...'
    else:
        items = {"type": "string", "enum": list(letters)}
        options = {"type": "array", "items": items, "minItems": count, "maxItems": count}
        told = "[" + ", ".join(f'"{letter}"' for letter in letters) + "] in the order you find"
    return _form("order", options, told, read, explain)


def expected_rating(reply: Reply, word: str) -> float | None:
    """The mean rating under the distribution of the token that begins the rating.

    Over the ratings that a listed token begins, normalised; a token that could begin several
    ratings counts for none. None where the answer came without log-probabilities.
    """
    found = list(re.finditer(r'"rating"\s*:\s*"', reply.text))
    if not found or not reply.steps:
        return None
    start, end = found[-1].end(), 0
    for token, likeliest in reply.steps:
        begin, end = end, end + len(token)
        if end > start:
            head = token[: start - begin]
            masses = _masses(head, likeliest)
            if not masses:
                return None
            total = sum(masses.values())
            return sum(rating * mass for rating, mass in masses.items()) / total
    return None


def _masses(head: str, likeliest: dict[str, float]) -> dict[int, float]:
    """The probability of each rating, by the tokens that begin it after `head`."""
    masses: dict[int, float] = {}
    for token, logp in likeliest.items():
        rest = token.removeprefix(head)
        if not token.startswith(head) or not rest.strip('"'):
            continue
        begun = [i for i, word in enumerate(RATINGS, 1) if word.startswith(rest.partition('"')[0])]
        if len(begun) == 1:
            masses[begun[0]] = masses.get(begun[0], 0.0) + math.exp(logp)
    return masses


def _form(
    name: str,
    options: dict[str, Any],
    told: str,
    read: Callable[[Reply], Any],
    explain: bool,
    logprobs: bool = False,
) -> Form:
    properties: dict[str, Any] = {name: options}
    shape = f'{{"{name}": {told}}}'
    if explain:
        properties = {"reasons": {"type": "string", "maxLength": _REASONS}, **properties}
        shape = f'{{"reasons": "one or two sentences", "{name}": {told}}}'
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Form(schema, f"Answer with JSON and nothing else: {shape}", read, logprobs)


def _value(text: str, name: str, explain: bool) -> Any:
    """The verdict in an answer that is one JSON object with the right keys; else None.

    Its thoughts are left out, also where the answer begins inside of one that a template opened.
    """
    keys = {name, "reasons"} if explain else {name}
    # First as it is: a judge's reasons may quote the marks.
    for said in dict.fromkeys((text, answer_of(text), text.partition(CLOSE)[2])):
        fenced = _FENCE.match(said.strip())
        try:
            answer = json.loads(fenced[1] if fenced else said)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and set(answer) == keys:
            return answer[name]
    return None
