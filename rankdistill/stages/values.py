"""What every number, text and group of a composed configuration must be, whatever its key is."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from rankdistill.errors import UserError, suggest
from rankdistill.fields import refuse_credentials

LARGEST = 2**32
"""No key takes a number of that size: it would overflow far from where it was given."""
GROUPS = (
    "prompts", "student", "teacher", "warmup", "sample", "score", "rank", "reward", "objective",
    "train", "eval",
)  # fmt: skip
"""Keys that hold keys; `retrieval` may be null."""
OF_OPTIONS = ("warmup", "score", "train")
"""Groups whose options have keys of their own."""


def check_values(config: DictConfig) -> None:
    """Refuses what no key takes.

    Raises:
        UserError: a group that has no keys, a number that is not finite or huge, an empty text.
    """
    asked = [group for group in ("retrieval", "cluster") if config.get(group) is not None]
    for group in (*GROUPS, *asked):
        if OmegaConf.is_missing(config, group) or not isinstance(config[group], DictConfig):
            given = None if OmegaConf.is_missing(config, group) else config[group]
            raise UserError(
                f"{group} is {'null' if given is None else given}; it must be one of the group's "
                "options, which `python -m rankdistill --help` lists."
            )
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} is {value}; it must be a finite number.")
        if isinstance(value, int | float) and abs(value) >= LARGEST:
            raise UserError(f"{key} is {value:g}; it must be a number below {LARGEST}.")
        if isinstance(value, str) and not value.strip():
            raise UserError(f"{key} is empty: give a value, or null where there is to be none.")
        refuse_credentials(key, value)


def refuse_secrets(config: DictConfig) -> None:
    """UserError where a key carries credentials: before Hydra writes the configuration down.

    Args:
        config: Hydra's own keys among it; interpolations stay as they are.
    """
    for key, value in leaves(OmegaConf.to_container(config, resolve=False)):
        refuse_credentials(key, value)


_OF_A_CLASS = ("_target_", "_convert_")
"""Keys that are Hydra's, in groups whose options name a class ..."""
_MEASURED_HERE = ("eval.quick", "eval.ranked", "eval.verified")
"""... which these are not."""


def refuse_added(node: Any, path: str) -> None:
    """`+key=value` opens even a typed group: what its schema has not is refused here."""
    if not isinstance(node, DictConfig):
        return
    schema = OmegaConf.get_type(node)
    valid = [own.name for own in fields(schema)] if is_dataclass(schema) else None
    is_built = path.partition(".")[0] in ("warmup", "score", "eval") and path not in _MEASURED_HERE
    for key in node:
        if valid is not None and key not in (*valid, *(_OF_A_CLASS if is_built else ())):
            raise UserError(f"'{path}' has no key '{key}': {suggest(str(key), valid)}")
        if not OmegaConf.is_missing(node, key):
            refuse_added(node[key], f"{path}.{key}")


def leave_out(config: DictConfig, overrides: Collection[str]) -> list[str]:
    """Takes out what a recipe sets for its option of a group, where the command line took another.

    What the command line sets itself is left for `refuse_added`.

    Args:
        config: A configuration whose schema did not refuse such keys, see `hydra_setup.register`.
        overrides: The command line's.

    Returns:
        For the person, what was taken out of each group.
    """
    said: list[str] = []
    for group in OF_OPTIONS:
        chosen = [word for word in overrides if word.startswith(f"{group}=")]
        node = config.get(group)
        schema = OmegaConf.get_type(node)
        if not chosen or not isinstance(node, DictConfig) or not is_dataclass(schema):
            continue
        known = (*(own.name for own in fields(schema)), *_OF_A_CLASS)
        given = {word.lstrip("+").partition("=")[0] for word in overrides}
        keys = [str(key) for key in node if key not in known]
        keys = [key for key in keys if not any(_within(word, f"{group}.{key}") for word in given)]
        with open_dict(node):
            for key in keys:
                del node[key]
        if keys:
            named = ", ".join(f"{group}.{key}" for key in keys)
            said.append(f"{chosen[-1]} has no use for {named}, which the recipe sets: left out.")
    return said


def _within(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of all that is no mapping and no list; of lists their elements."""
    if isinstance(node, DictConfig | dict):
        for name in node:
            if isinstance(node, dict) or not OmegaConf.is_missing(node, name):
                yield from leaves(node[name], f"{path}.{name}" if path else str(name))
    elif isinstance(node, ListConfig | list):
        for place in range(len(node)):
            if isinstance(node, list) or not OmegaConf.is_missing(node, place):
                yield from leaves(node[place], f"{path}[{place}]")
    else:
        yield path, node
