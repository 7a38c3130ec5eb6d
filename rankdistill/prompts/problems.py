"""Word problems with reference answers, generated: reasoning that a small model can do in part.

A problem is a calculation with two small numbers and a story around it. No two have the same
calculation, whoever the story is about and whichever number comes first, so no split knows the
answers of another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

REQUEST = 'Write the calculation in one line, then "#### " and the answer.'
"""The form that is asked for, which is GSM8K's."""
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack", "Leo")
_THINGS = ("apples", "pears", "books", "pencils", "stamps", "coins", "shells", "cards", "buttons")
_FOOD = ("apples", "pears", "cookies", "nuts")
_GOODS = ("pen", "cup", "ball", "book", "cake")


def problems(seed: int = 0) -> list[dict[str, str]]:
    """All calculations, each in one story, in random order.

    Args:
        seed: Another seed is another draw of the stories and the order.

    Returns:
        Rows with `prompt`; `response`, a worked solution in the form that is asked for; `answer`,
        its number; and `kind`, the sort of its story.
    """
    rng = random.Random(f"problems {seed}")
    rows = [
        *(_row(rng, "+", _either(rng, a, b), a + b) for a in range(2, 21) for b in range(a, 21)),
        *(_row(rng, "-", (a, b), a - b) for a in range(4, 16) for b in range(1, a)),
        *(_row(rng, "*", _either(rng, a, b), a * b) for a in range(2, 14) for b in range(a, 14)),
    ]
    rng.shuffle(rows)
    return rows


def _either(rng: random.Random, a: int, b: int) -> tuple[int, int]:
    return (a, b) if rng.random() < 0.5 else (b, a)


def _row(rng: random.Random, sign: str, numbers: tuple[int, int], answer: int) -> dict[str, str]:
    a, b = numbers
    kind = rng.choice(KINDS[sign])
    return {
        "prompt": f"{STORIES[kind](rng, a, b)} {REQUEST}",
        "response": f"{a} {sign} {b} = {answer}\n#### {answer}",
        "answer": str(answer),
        "kind": kind,
    }


def _add(rng: random.Random, a: int, b: int) -> str:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    return f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?"


def _together(rng: random.Random, a: int, b: int) -> str:
    (first, second), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    return (
        f"{first} has {a} {thing} and {second} has {b} {thing}. "
        f"How many {thing} do they have together?"
    )


def _take_away(rng: random.Random, a: int, b: int) -> str:
    name, thing = rng.choice(_NAMES), rng.choice(_FOOD)
    return f"{name} has {a} {thing} and eats {b} of them. How many {thing} are left?"


def _groups(rng: random.Random, a: int, b: int) -> str:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    return f"{name} has {a} boxes with {b} {thing} in each. How many {thing} does {name} have?"


def _price(rng: random.Random, a: int, b: int) -> str:
    thing = rng.choice(_GOODS)
    return f"A {thing} costs {a} dollars. How many dollars do {b} {thing}s cost?"


STORIES: dict[str, Callable[[random.Random, int, int], str]] = {
    "add": _add,
    "together": _together,
    "take_away": _take_away,
    "groups": _groups,
    "price": _price,
}
"""What writes a story of each kind around two numbers."""
KINDS: dict[str, Sequence[str]] = {
    "+": ("add", "together"),
    "-": ("take_away",),
    "*": ("groups", "price"),
}
"""The kinds of stories that a calculation is put into, by its sign."""
