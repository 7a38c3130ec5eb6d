"""How every template of the package is rendered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


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
