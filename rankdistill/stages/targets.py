"""What a `_target_` may name: a class of the group's kind, and nothing else that can be called.

A configuration may come from elsewhere. A class of one's own is code that runs, which is what it is
named for; a function is called with the configuration's arguments, whatever it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from hydra.utils import get_object

from rankdistill.errors import UserError
from rankdistill.sample import Sampler
from rankdistill.score.ensemble import Ensemble
from rankdistill.score.scorer import Scorer
from rankdistill.suites.suite import Suite
from rankdistill.warmup.warmup import Warmup


def check_target(group: str, options: Mapping[str, Any]) -> None:
    """Refuse a `_target_` before it is called.

    What cannot be found is left to who builds it.

    Args:
        group: Where the options are in the configuration.
        options: With `_target_`; keys that hold another are checked as well.

    Raises:
        UserError: it names a function, or a class of another kind.
    """
    kind = _KINDS.get(group, _SUITE)
    target = _named(options["_target_"])
    if isinstance(target, type) and not kind.holds(target):
        raise UserError(
            f"{target.__name__}, which '{group}' names, is no {kind.noun}: let the class "
            f"{kind.does}."
        )
    if target is not None and not isinstance(target, type):
        article = "an" if kind.noun[0] in "aeiou" else "a"
        raise UserError(
            f"'{group}' names `_target_: {options['_target_']}`, which is {_what(target)}: name "
            f"{article} {kind.noun}, a class that must {kind.does}."
        )
    for key, value in options.items():
        _check_inner(f"{group}.{key}", value)


def _check_inner(key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        target = _named(value["_target_"]) if "_target_" in value else None
        if target is not None and not (isinstance(target, type) and is_dataclass(target)):
            raise UserError(
                f"'{key}' names `_target_: {value['_target_']}`, which is {_what(target)}: what a "
                "key holds may be a dataclass alone."
            )
        for name, inner in value.items():
            _check_inner(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            _check_inner(f"{key}[{place}]", inner)


def _named(target: Any) -> Any:
    try:
        return get_object(target)
    except Exception:  # what it is cannot be said, and neither can it be called
        return None


def _what(target: Any) -> str:
    return "a function" if callable(target) else f"a {type(target).__name__}"


@dataclass(frozen=True)
class _Kind:
    noun: str
    does: str
    """What a class of the kind has to do."""
    holds: Callable[[type], bool]


def _is_objective(cls: type) -> bool:
    """By its members, since `Objective` is a protocol."""
    annotated = (vars(kind).get("__annotations__") for kind in cls.__mro__)
    # That of `type` itself is no mapping.
    named = any(isinstance(own, Mapping) and "needs_reference" in own for own in annotated)
    return "__call__" in dir(cls) and (named or hasattr(cls, "needs_reference"))


_SCORER = _Kind(
    "scorer",
    "inherit from rankdistill.score.Scorer",
    lambda found: issubclass(found, Scorer | Ensemble),
)
_SUITE = _Kind(
    "suite",
    "inherit from rankdistill.suites.Suite",
    lambda found: issubclass(found, Suite),
)
_KINDS: Mapping[str, _Kind] = {
    "warmup": _Kind(
        "warm-up",
        "inherit from rankdistill.warmup.warmup.Warmup",
        lambda found: issubclass(found, Warmup),
    ),
    "sample.sampler": _Kind(
        "sampler",
        "inherit from rankdistill.sample.Sampler",
        lambda found: issubclass(found, Sampler),
    ),
    "score": _SCORER,
    "eval.judge": _SCORER,
    "objective": _Kind(
        "objective",
        "have `__call__(candidates)` and `needs_reference`, as rankdistill.objectives.Objective",
        _is_objective,
    ),
}
"""By group; others are suites."""
