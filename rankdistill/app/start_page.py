"""What the command prints instead of running: where to begin, what there is, what it means."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from shutil import get_terminal_size
from textwrap import shorten

from rankdistill.app import catalogue, command_line, keys
from rankdistill.errors import UserError

HEAD = """rankdistill: a student writes, a teacher ranks, the student learns the ranking.

Begin with   python -m rankdistill recipe=likelihood    (15 minutes on two cores)
then read    runs/likelihood/report.html
own files    python -m rankdistill.init my_project
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
        return "\n".join([HEAD, *_recipes(), "", *_tools(), "", MORE])
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
        return "\n\n".join(keys.explain(name) for name in named)
    return None


def versions() -> str:
    """Of this package and of those that its results depend on; none of them is imported."""
    lines = []
    for name in ("rankdistill", "torch", "transformers", "trl", "vllm"):
        found = next(filter(None, map(installed, (name, f"{name}-cpu"))), "not installed")
        lines.append(f"{name} {found}")
    return "\n".join([*lines, f"python {platform.python_version()}"])


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _recipes() -> Iterator[str]:
    told = {recipe.name: recipe.what for recipe in catalogue.recipes()}
    width = _width()
    for place, (heading, names) in enumerate(catalogue.RECIPES.items()):
        yield ("\n" if place else "") + f"{heading}:"
        for name in names:
            yield f"  {name:<21}" + shorten(told[name], width - 23, placeholder=" ...")


def _tools() -> Iterator[str]:
    yield "Tools, each `python -m rankdistill.NAME --help`:"
    for name, what in catalogue.TOOLS.items():
        yield f"  {name:<21}{shorten(what, _width() - 23, placeholder=' ...')}"


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


def _width() -> int:
    """Columns of a line: the terminal's, and of a pipe enough for every line."""
    return max(60, get_terminal_size().columns) if sys.stdout.isatty() else 150
