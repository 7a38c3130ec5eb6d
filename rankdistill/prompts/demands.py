"""Demands on the form of an answer that a program can check, each with its opposite.

A *kind* has two sides that no answer can meet both of: at most N words, at least M. An answer that
is always the same, whatever was asked for, meets at most one of them; so a habit, a length or a
surer student is worth at most half of a kind whose sides are asked for equally often.

The kinds, with their wordings and arguments, are in `rankdistill/data/demands.yaml`; rules are
IFEval's (Zhou et al. 2023, arXiv:2311.07911) and, named `form:...`, our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any, Literal

import yaml

KindGroup = Literal["marks", "restrictions"]
"""Marks are added to an answer; restrictions bind its whole text."""
FILE = "demands.yaml"


@dataclass(frozen=True)
class Wordings:
    """Ways to ask for one side, and what its rule may be called with."""

    texts: tuple[str, ...]
    """Sentences; `{name}` is the text of an argument."""
    arguments: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Side:
    """One of the two demands of a kind."""

    name: str
    rule: str
    """IFEval's `family:name`, or `form:name`."""
    known: Wordings
    """Of train and validation prompts."""
    held_out: Wordings
    """Of held-out prompts alone."""
    excludes: frozenset[str]
    """Sides of other kinds that no sensible answer meets together with this one."""


@dataclass(frozen=True)
class Kind:
    """A demand and its opposite."""

    name: str
    group: KindGroup
    sides: tuple[Side, Side]

    def opposite(self, side: Side) -> Side:
        """The other side."""
        return self.sides[1] if side is self.sides[0] else self.sides[0]


@dataclass(frozen=True)
class Demand:
    """One demand of a prompt."""

    kind: str
    side: str
    text: str
    rule: str
    arguments: Mapping[str, Any]
    opposite_rule: str
    opposite_arguments: Mapping[str, Any]


def demands_digest() -> str:
    """SHA-256 of the kinds: other wordings or arguments make other prompts."""
    return hashlib.sha256((resources.files("rankdistill.data") / FILE).read_bytes()).hexdigest()


@cache
def kinds() -> Mapping[str, Kind]:
    """All kinds, by name."""
    text = (resources.files("rankdistill.data") / FILE).read_text(encoding="utf-8")
    return {name: _kind(name, row) for name, row in yaml.safe_load(text).items()}


def demand(kind: Kind, side: Side, held_out: bool, wording: int, argument: int) -> Demand:
    """A side's demand in one of its wordings, with one of its arguments, both counted round."""
    own, other = (s.held_out if held_out else s.known for s in (side, kind.opposite(side)))
    arguments = own.arguments[argument % len(own.arguments)]
    return Demand(
        kind=kind.name,
        side=side.name,
        text=own.texts[wording % len(own.texts)].format(**_shown(arguments)),
        rule=side.rule,
        arguments=arguments,
        opposite_rule=kind.opposite(side).rule,
        opposite_arguments=other.arguments[argument % len(other.arguments)],
    )


def _shown(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the arguments in a wording."""
    shown = {
        name: " and ".join(f'"{word}"' for word in value) if isinstance(value, list) else str(value)
        for name, value in arguments.items()
    }
    if "num_words" in arguments:
        # IFEval knows "less than"; people say "at most".
        most = arguments["relation"] == "less than"
        shown["words"] = str(arguments["num_words"] - most)
    return shown


def _kind(name: str, row: Mapping[str, Any]) -> Kind:
    first, second = (_side(side, values) for side, values in row["sides"].items())
    return Kind(name, row["group"], (first, second))


def _side(name: str, row: Mapping[str, Any]) -> Side:
    return Side(
        name=name,
        rule=row["rule"],
        known=_read(row),
        held_out=_read(row["held_out"]),
        excludes=frozenset(row.get("excludes", ())),
    )


def _read(row: Mapping[str, Any]) -> Wordings:
    values: Mapping[str, Sequence[Any]] = row.get("arguments", {})
    arguments = tuple(
        dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())
    )
    return Wordings(tuple(row["wordings"]), arguments)
