"""Overrides as a command, and as a recipe file."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from rankdistill.migrate.carried import Carried


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
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return f'"{text}"' if any(character in text for character in ",= '{}[]()") else text
