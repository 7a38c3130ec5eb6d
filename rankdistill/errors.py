"""What a person can get wrong, said in one sentence: what, where, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

MOST_NAMES = 24
"""Names that a sentence lists; every group and its keys have fewer."""


class UserError(Exception):
    """A mistake in the input or the environment. Shown without a traceback, exit code 2.

    The message is one sentence that names what is wrong, where, and what to do about it.
    """


class Diverged(UserError):
    """A training that has left all bounds; at a lower learning rate it may not."""


class EngineDied(UserError):
    """An engine's process has ended by itself; another one may do better."""


def suggest(name: Any, valid: Iterable[str]) -> str:
    """The valid names nearest to `name`, as the end of a sentence: ``did you mean 'rrhf'?``.

    Lists the names when none is near, all of them unless there are many. What is given in the place
    of a name may be a number or a list.
    """
    name = str(name)
    # A name that is valid may be refused for what it names, and is no advice then.
    names = sorted({str(candidate) for candidate in valid} - {name})
    if not names:
        return "there is no other."
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"'{candidate}'" for candidate in near) + "?"
    shown = ", ".join(f"'{candidate}'" for candidate in names[:MOST_NAMES])
    return f"valid names are {shown}" + (", ..." if len(names) > MOST_NAMES else "") + "."


def first_line(error: Exception) -> str:
    """The first line of another library's message, ended as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:") + "."


FAILURE = "failure.txt"
"""In the run folder of a sweep's point that failed: one sentence."""
