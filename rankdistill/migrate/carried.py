"""What becomes of a configuration: overrides, and what has no place, each with the reason."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass
class Carried:
    """Overrides by their key; and what was not carried, or not exactly."""

    given: Mapping[str, Any]
    """The configuration; `take` marks what has been looked at."""
    groups: dict[str, Any] = field(default_factory=dict)
    """Choices of options, as `objective: dpo`."""
    values: dict[str, Any] = field(default_factory=dict)
    """Values by dotted key."""
    left: dict[str, str] = field(default_factory=dict)
    """Reasons by the key of the configuration."""
    remarks: list[str] = field(default_factory=list)
    """What differs although it was carried."""
    _seen: set[str] = field(default_factory=set)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, null counted as absent."""
        self._seen.add(key)
        value = self.given.get(key)
        return default if value is None else value

    def leave(self, key: str, reason: str) -> None:
        """A key that is there, and has no place."""
        self._seen.add(key)
        if key in self.given:
            self.left[key] = reason

    def unseen(self) -> list[str]:
        """Keys that nothing has looked at."""
        return [key for key in self.given if key not in self._seen]


def overrides(carried: Carried) -> list[str]:
    """As `python -m rankdistill` takes them: choices first."""
    chosen = [f"{key}={_value(value)}" for key, value in carried.groups.items()]
    return chosen + [f"{key}={_value(value)}" for key, value in carried.values.items()]


def command(carried: Carried) -> str:
    """The whole command, for a shell."""
    parts = [shlex.quote(part) for part in overrides(carried)]
    return " \\\n    ".join(["python -m rankdistill", *parts])


def recipe(carried: Carried, source: str) -> str:
    """The text of a recipe."""
    chosen = [{f"override /{group}": option} for group, option in carried.groups.items()]
    nested: dict[str, Any] = {}
    for key, value in carried.values.items():
        *path, last = key.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    head = ["# @package _global_", f"# Carried over from {source}."]
    if carried.left:
        head.append("# Without a place here:")
        head += [f"#   {key}: {reason}." for key, reason in carried.left.items()]
    head += [f"# {remark}" for remark in carried.remarks]
    body = yaml.safe_dump({"defaults": chosen, **nested}, sort_keys=False, default_flow_style=None)
    return "\n".join(head) + "\n" + body


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(_value(part) for part in value)}]"
    if isinstance(value, dict):
        # Hydra would take a colon in a name for the end of it, and 1 for a number of rows.
        names = [str(name).replace(":", r"\:") for name in value]
        said = [str(part) if isinstance(part, float) else _value(part) for part in value.values()]
        parts = (f"{name}: {part}" for name, part in zip(names, said, strict=True))
        return "{" + ",".join(parts) + "}"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return f'"{text}"' if any(character in text for character in ",= '{}[]()") else text
