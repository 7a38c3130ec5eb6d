"""What a frozen dataclass of options says of its fields beside their types: does a key change the
result, and which values may it have.

A plug-in's dataclass is its schema, its ranges and its part of the identity. All of its fields
count for the identity unless the class says otherwise, so a forgotten field costs a computation and
never hands out a wrong output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote

from rankdistill.errors import UserError, suggest

_IRRELEVANT = "irrelevant"
_ADDED = "added"
_CREDENTIALS = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/?#\s'\"]*@"
    # A password with a mark that should have been escaped; a port has digits only.
    r"|[a-z][a-z0-9+.-]*://[^/?#\s'\"\[:]+:(?!\d+(?:[/?#]|$)|\$)[^\s'\"]*@"
    r"|[?&](?:[a-z_-]*(?:key|token|password|passwd|secret|signature)|sig)="
    r"|://[^\s'\"]*[?&;#](?:[a-z_-]*(?:key|token|password|secret|credentials?|signature|auth"
    r"|session|session_?id|cookie|ticket)|authorization|bearer|code|jwt|pass|passphrase|passwd|pwd"
    r"|sig)=",
    re.IGNORECASE,
)


def irrelevant(default: Any = MISSING, *, default_factory: Any = MISSING) -> Any:
    """A field that changes memory, speed, or what is logged or refused, and never the result."""
    given = {"default": default, "default_factory": default_factory}
    return field(
        **{name: value for name, value in given.items() if value is not MISSING},
        metadata={_IRRELEVANT: True},
    )


def added(default: Any) -> Any:
    """A field that a class got after outputs were kept: at its default, which does what was done
    before it, it is no part of the identity, so that these are found again."""
    return field(default=default, metadata={_ADDED: True})


def irrelevant_fields(kind: Any) -> set[str]:
    """The names of a dataclass's fields, or of those of an object, that are `irrelevant`."""
    return {own.name for own in fields(kind) if own.metadata.get(_IRRELEVANT)}


def identity_of(options: Any, *, instead: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that its result depends on, by name; in JSON's types.

    Args:
        options: The object.
        instead: Further names to leave out: the caller hashes what these fields come to (the text
            of a file in place of its path), or knows that they say nothing beside the others.
    """
    left_out = irrelevant_fields(options).union(instead)
    return {
        own.name: plain(getattr(options, own.name))
        for own in fields(options)
        if own.name not in left_out
        and not (own.metadata.get(_ADDED) and getattr(options, own.name) == own.default)
    }


def plain(value: Any) -> Any:
    """A value of a configuration in JSON's types."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value):
        return identity_of(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value of JSON's types, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def require(key: str, value: Any, condition: bool, what: str) -> None:
    """UserError unless `condition`: ``<key> is <value>; it must be <what>.``"""
    if not condition:
        raise UserError(f"{key} is {value}; it must be {what}.")


def require_choice(key: str, value: Any, choices: Collection[str]) -> None:
    """UserError unless `value` is one of `choices`, with the nearest of them."""
    if not isinstance(value, str) or value not in choices:  # what is no text may have no hash
        raise UserError(f"{key} '{value}' is unknown: {suggest(value, choices)}")


def at_least(group: str, options: Any, least: float, *names: str) -> None:
    """UserError unless these fields are at least so much, or None.

    Args:
        group: Where the fields are in the configuration: ``warmup``, ``eval.pairs``; "" is its top.
        options: The object that has them.
        least: The smallest value.
        names: Of the fields.
    """
    for name in names:
        value = getattr(options, name)
        require(_key(group, name), value, value is None or value >= least, f"at least {least}")


def above_zero(group: str, options: Any, *names: str) -> None:
    """UserError unless these fields are finite and above 0, or None; see `at_least`."""
    for name in names:
        value = getattr(options, name)
        require(_key(group, name), value, value is None or 0 < value < math.inf, "above 0")


def within(group: str, options: Any, interval: str, *names: str) -> None:
    """UserError unless these fields are in an interval such as ``[0, 1)``, or None."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        above = value > low if interval[0] == "(" else value >= low
        below = value < high if interval[-1] == ")" else value <= high
        require(_key(group, name), value, above and below, f"in {interval}")


def _key(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def has_credentials(text: str) -> bool:
    """Whether a text is, or has in it, a URL that carries a secret."""
    return any(_CREDENTIALS.search(form) for form in (text, unquote(text)))


def refuse_credentials(key: str, value: Any) -> None:
    """UserError, which does not repeat it, where a text is a URL that carries a secret.

    A key may be one as well: those of `prompts.path` are data sets.
    """
    secret_key = has_credentials(key)
    if secret_key or (isinstance(value, str) and has_credentials(value)):
        named = key.partition("://")[0].rpartition(".")[0] if secret_key else key
        raise UserError(
            f"{named or 'An argument'} carries credentials, which would be written into the run's "
            "files: leave them out of the address, and give a key by the environment (VLLM_API_KEY "
            "for score.through, else the variable that key_variable names)."
        )


Amount = int | float | None
"""How much of a set is taken: so many train prompts, or a share of all; None: all."""


def amounts(key: str, path: Any) -> dict[str, Amount]:
    """How much is taken of which set, by what `prompts.path` or `rank.path` says.

    Args:
        key: For a message.
        path: One set, a list of sets, or by set the number of its train prompts or a share.

    Raises:
        UserError: it is nothing of that.
    """
    if isinstance(path, str):
        return {path: None}
    said = f"as in '{key}={{first.jsonl: 0.5, second.jsonl: 2000}}'"
    named = isinstance(path, list | Mapping) and path
    if not named or not all(isinstance(name, str) and name.strip() for name in path):
        raise UserError(
            f"{key} is {path}: give a set, a list of sets, or how much of each, {said}."
        )
    if isinstance(path, list):
        if len(set(path)) < len(path):
            raise UserError(f"{key} names a set twice: say how much is taken of it once, {said}.")
        return dict.fromkeys(path)
    for name, amount in path.items():
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        share = isinstance(amount, float) and 0 < amount <= 1
        if not number or not (share or (isinstance(amount, int) and amount > 1)):
            raise UserError(
                f"{key} takes {amount} of '{name}': give a share such as 0.5 (1.0 is all of it), "
                f"or a whole number of train prompts from 2, {said}."
            )
    return dict(path)
