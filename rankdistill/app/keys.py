"""What every key means, by the comments of the shipped YAML files.

Read as text, so that neither Hydra nor torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from textwrap import fill

from rankdistill.errors import UserError, suggest

NO_KEYS = ("hydra", "accelerate")
"""Folders of `conf/` that a run has no keys of."""
_LINE = re.compile(r"^( *)([A-Za-z_][\w/@]*):(?: +(.*))?$")


@dataclass(frozen=True)
class Key:
    """A line of a YAML file."""

    name: str
    """Dotted, as it is overridden: `train.epochs`."""
    default: str
    """As it is written; empty where keys of its own follow."""
    comment: str
    option: str
    """The option that has it, `objective=dpo`; empty of `conf/config.yaml`."""


def explain(name: str) -> str:
    """The comments of a key, or of all keys below it, for a terminal.

    Raises:
        UserError: there is no such key.
    """
    name = name.strip("+~")
    found = [key for key in keys() if key.name == name or key.name.startswith(f"{name}.")]
    if not found:
        raise UserError(f"there is no key '{name}': {suggest(name, {k.name for k in keys()})}")
    # Options of a group share keys, and mostly their comments.
    by_text: dict[tuple[str, str, str], list[str]] = {}
    for key in found:
        by_text.setdefault((key.name, key.default, key.comment), []).append(key.option)
    return "\n".join(_explained(*text, options) for text, options in by_text.items())


def _explained(name: str, default: str, comment: str, options: list[str]) -> str:
    of = ", ".join(filter(None, options))
    head = f"{name}: {default}".rstrip() + (f"   ({of})" if of else "")
    indent = "    "
    return f"{head}\n{fill(comment, 96, initial_indent=indent, subsequent_indent=indent)}"


@cache
def keys() -> tuple[Key, ...]:
    """Of `conf/` and `eval/`, in their order; those of `optimiser.yaml` for each that has them."""
    conf = files("rankdistill.conf")
    found = list(_of_file(conf / "config.yaml", "", ""))
    for group in sorted(entry.name for entry in conf.iterdir() if entry.is_dir()):
        if group not in NO_KEYS:
            for path in _yaml_files(conf / group):
                found += _of_option(path, group, f"{group}={path.name.removesuffix('.yaml')}")
    found += _of_file(conf / "plan.yaml", "", "python -m rankdistill.plan")
    for path in _yaml_files(files("rankdistill.eval")):
        name = path.name.removesuffix(".yaml")
        found += _of_file(path, f"eval.{name}", f"eval=[{name}]")
    return tuple(found)


def _yaml_files(folder: Traversable) -> list[Traversable]:
    return sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")),
        key=lambda entry: entry.name,
    )


def _of_option(path: Traversable, group: str, option: str) -> Iterator[Key]:
    own = list(_of_file(path, group, option))
    yield from own
    if "/optimiser@_here_" in path.read_text(encoding="utf-8"):
        shared = _of_file(files("rankdistill.conf") / "optimiser.yaml", group, option)
        named = {key.name for key in own}
        yield from (key for key in shared if key.name not in named)


def _of_file(path: Traversable, prefix: str, option: str) -> Iterator[Key]:
    """The keys of a file, each with the comment above it."""
    comment: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if match := _LINE.match(line):
            indent, name, value = len(match[1]), match[2], (match[3] or "").split("  #")[0]
            parents = [*((i, p) for i, p in parents if i < indent), (indent, name)]
            dotted = ".".join([*filter(None, [prefix]), *(part for _, part in parents)])
            if name not in ("defaults", "hydra") and parents[0][1] not in ("defaults", "hydra"):
                yield Key(dotted, value.strip(), " ".join(comment), option)
        comment = []
