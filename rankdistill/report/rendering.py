"""How every template of the package is rendered, and the words that reports explain."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


@cache
def environment(
    *packages: str, escape: bool, last_newline: bool = False, **filters: Callable[..., Any]
) -> Environment:
    """Jinja's, over the folders `templates` of some packages; a name that is not given is refused.

    Args:
        packages: Where a template is looked for, in this order.
        escape: Whether values are escaped, for HTML.
        last_newline: Whether a template's last line ends where it does in the file.
        filters: By their name in the templates.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=last_newline,
    )
    made.filters.update(filters)
    return made


class Word(NamedTuple):
    """A word, the key that `metrics.json` has for it, and what it means."""

    word: str
    key: str
    meaning: str


def _words() -> list[Word]:
    _, _, *rows = (Path(__file__).parent / "templates/words.md").read_text("utf-8").splitlines()
    cells = (row.strip("|").split("|") for row in rows)
    return [Word(word.strip(), key.strip(" `"), meaning.strip()) for word, key, meaning in cells]


WORDS = _words()
