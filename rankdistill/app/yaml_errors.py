"""What is wrong with a YAML file of the user's, which Hydra and PyYAML raise as they meet it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rankdistill.errors import suggest

_PROBLEMS = {
    "cannot start any token": "a tab, or a mark that YAML keeps for itself",
    "could not determine a constructor": "a tag such as !!python/..., for plain values only",
    "found undefined alias": "an alias (*name) whose anchor (&name) is not there",
    "duplicate key": "one key twice",
}
"""What the commonest of PyYAML's problems are called here."""


def explain_yaml(error: Exception, arguments: Sequence[str]) -> str | None:
    """The sentence; None of an error that no file of the user's makes.

    Args:
        error: What was raised while a configuration was composed.
        arguments: The command line, for the folders and the names of files.
    """
    from yaml import YAMLError

    chosen = [argument for argument in arguments if re.match(r"[\w/@.]+=[\w.-]+$", argument)]
    if isinstance(error, YAMLError):
        return _unreadable(error)
    if isinstance(error, UnicodeDecodeError):
        return _not_utf_8(arguments)
    if isinstance(error, RecursionError):
        return (
            "a defaults list comes back to its own file, directly or through others "
            f"({', '.join(chosen) or 'the command line'}): take out the name that closes the circle"
        )
    return _misplaced(str(error), chosen)


def _unreadable(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = getattr(error, "name", None) if mark is None else f"{mark.name}, line {mark.line + 1}"
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    known = (said for part, said in _PROBLEMS.items() if part in problem)
    return f"{place or 'a YAML file'} is no YAML that is read: it has {next(known, problem)}"


def _not_utf_8(arguments: Sequence[str]) -> str:
    for file in _own_files(arguments):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            return f"{file} is no text in UTF-8 (byte {error.start + 1}): save it as UTF-8"
        except OSError:
            continue
    return "a YAML file is no text in UTF-8: save it as UTF-8"


def _own_files(arguments: Sequence[str]) -> Iterator[Path]:
    """The YAML files in the folders of `--config-dir` and `hydra.searchpath`."""
    line = " ".join(arguments)
    found = re.findall(r"(?:--config-dir|-cd)[= ]([^ ]+)", line)
    found += re.findall(r"file://([^\],' ]+)", line)
    for folder in found:
        yield from sorted(Path(folder).expanduser().rglob("*.y*ml"))


def _misplaced(text: str, chosen: Sequence[str]) -> str | None:
    remedy = "give names of files, as in `defaults: [dpo, override /score: judge]`"
    no_list = re.match(r"Invalid defaults list in '(.+?)', defaults must be a list", text)
    if no_list:
        return f"the `defaults` of '{no_list[1]}' are no list: {remedy}"
    if text.startswith("Unsupported type in defaults") or "default item" in text:
        where = f"one of {', '.join(chosen)}" if chosen else "a file"
        return f"an entry of the `defaults` of {where} is no name: {remedy}"
    if text.startswith("Config group override must be a string or a list"):
        return _no_option(chosen)
    if text.startswith("Invalid loaded object type"):
        return f"a YAML file of {', '.join(chosen)} holds a single value: it must hold keys"
    return None


def _no_option(chosen: Sequence[str]) -> str:
    from rankdistill.app import catalogue

    groups = catalogue.groups()
    for argument in chosen:
        group, _, value = argument.partition("=")
        if group in groups and value not in groups[group]:
            return f"there is no {group} named '{value}': {suggest(value, groups[group])}"
    return "a group has null or a number for its option: name one"
