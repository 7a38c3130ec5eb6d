"""What the command prints instead of running: where to begin, what there is, what it means."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from textwrap import fill, shorten

from rankdistill.app import catalogue, command_line
from rankdistill.errors import UserError, suggest
from rankdistill.shell import columns, installed

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
    width = min(96, columns())
    return f"{head}\n{fill(comment, width, initial_indent=indent, subsequent_indent=indent)}"


@cache
def keys() -> tuple[Key, ...]:
    """Of `conf/` and `eval/`, in their order; those of `optimiser.yaml` for each that has them.

    The files are read as text, so that neither Hydra nor torch is imported.
    """
    conf = files("rankdistill.conf")
    of_files = list(_of_file(conf / "config.yaml", "", ""))
    for group in sorted(entry.name for entry in conf.iterdir() if entry.is_dir()):
        if group not in NO_KEYS:
            for name, path in catalogue.yaml_files(conf / group).items():
                of_files += _of_option(path, group, f"{group}={name}")
    of_files += _of_file(conf / "plan.yaml", "", "python -m rankdistill.plan")
    for name, path in catalogue.suite_files().items():
        of_files += _of_file(path, f"eval.{name}", f"eval=[{name}]")
    return tuple(of_files)


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


HEAD = """A student writes, a teacher ranks, the student learns it.

Begin with  python -m rankdistill recipe=tour   # minutes
a result    python -m rankdistill recipe=dpo    # 15 minutes
then read   runs/dpo/report.html
own files   python -m rankdistill.init my_project
"""
USAGE = """usage: python -m rankdistill recipe=NAME [group=OPTION] [key=value] ...
       python -m rankdistill -m recipe=NAME seed=0,1   a sweep: one run per value
       python -m rankdistill recipe=NAME --about       what a recipe is and needs
       python -m rankdistill KEY --explain             what a key means
       python -m rankdistill recipe=NAME --cfg job     print all keys, run nothing

`rankdistill` alone is the same as `python -m rankdistill`. name=NAME names the
run's folder, runs/NAME. --version says what is installed. Other flags are
Hydra's, in any place: -m/--multirun, --cfg job, --info defaults, --config-dir
DIR (a folder with your own recipes, options and Python), --hydra-help,
--shell-completion install=bash. hydra.verbose=true shows tracebacks. Outputs
are kept in $RANKDISTILL_HOME (~/.cache/rankdistill).
"""
MORE = "recipe=NAME --about tells the rest of a recipe; --help lists flags, groups and options."


def asked_for(arguments: Sequence[str]) -> str | None:
    """The text that a command asks for; None where it is to run.

    Args:
        arguments: As `command_line.ordered` returns them.

    Raises:
        UserError: a recipe or a key that there is not.
    """
    if not arguments:
        return "\n".join([HEAD, *_recipes(), "", *_tools(), "", fill(MORE, columns())])
    if "--help" in arguments:
        return "\n".join([USAGE, *_recipes(), "", *_tools(), "", *_groups()])
    if "--version" in arguments:
        return versions()
    if "--about" in arguments:
        return _about(arguments)
    if "--explain" in arguments:
        named = [word.partition("=")[0] for word in arguments if not word.startswith("-")]
        if not named:
            raise UserError("--explain needs a key: python -m rankdistill train.epochs --explain")
        return "\n\n".join(explain(name) for name in named)
    return None


def versions() -> str:
    """Of this package and of those that its results depend on; none of them is imported."""
    lines = []
    for name in ("rankdistill", "torch", "transformers", "trl", "vllm"):
        version = next(filter(None, map(installed, (name, f"{name}-cpu"))), "not installed")
        lines.append(f"{name} {version}")
    return "\n".join([*lines, f"python {platform.python_version()}"])


def _recipes() -> Iterator[str]:
    purposes = {recipe.name: recipe.what for recipe in catalogue.recipes()}
    width = columns()
    for place, (heading, names) in enumerate(catalogue.RECIPES.items()):
        yield ("\n" if place else "") + f"{heading}:"
        for name in names:
            yield f"  {name:<21}" + shorten(purposes[name], width - 23, placeholder=" ...")


def _tools() -> Iterator[str]:
    yield "Tools, each `python -m rankdistill.NAME --help`:"
    for name, what in catalogue.TOOLS.items():
        yield f"  {name:<21}{shorten(what, columns() - 23, placeholder=' ...')}"


def _groups() -> Iterator[str]:
    yield "Groups and their options:"
    for group, names in catalogue.groups().items():
        yield f"  {group}: {', '.join(names)}"


def _about(arguments: Sequence[str]) -> str:
    named = [word.partition("=")[2] for word in arguments if word.startswith("recipe=")]
    if not named:
        raise UserError("--about needs a recipe: python -m rankdistill recipe=rrhf --about")
    folders = command_line.config_folders(arguments)
    return "\n\n".join(catalogue.about(name, folders) for name in named[-1].split(","))
