"""The shape of a command: flags anywhere, words that are no KEY=VALUE, a command without a recipe.

Looked at before Hydra and torch are imported, so that a slip of the keyboard is told at once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from rankdistill.app import catalogue
from rankdistill.errors import UserError, suggest

_ALONE = {
    "-m": "--multirun", "-r": "--run", "-h": "--help", "-sc": "--shell-completion",
    "--hydra-help": "--hydra-help", "--resolve": "--resolve", "--version": "--version",
    "--about": "--about",     "--explain": "--explain",
}  # fmt: skip
"""Hydra's flags and ours by their short form, and those that have none."""
_WITH_VALUE = {
    "-c": "--cfg", "-p": "--package", "-cp": "--config-path", "-cn": "--config-name",
    "-cd": "--config-dir", "--experimental-rerun": "--experimental-rerun",
}  # fmt: skip
_INFO = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
"""What may follow `--info`, or nothing."""

_RUNS_NOTHING = {
    "--cfg",
    "--info",
    "--hydra-help",
    "--shell-completion",
    "--help",
    "--version",
    "--about",
    "--explain",
}
_OTHER_CONFIG = {"--config-name", "--config-path", "--experimental-rerun"}
"""With these, what is run is not `conf/config.yaml`, or not that alone."""


def ordered(arguments: Sequence[str]) -> list[str]:
    """The arguments with all flags first, in their long form, since Hydra stops at the overrides.

    Raises:
        UserError: a flag that Hydra does not have, or a word that is no KEY=VALUE.
    """
    if "--explain" in arguments:  # of a key, which then has no value
        return list(arguments)
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            overrides.append(_checked(word, arguments))
            continue
        name, equals, value = word.partition("=")
        known = {**_ALONE, **_WITH_VALUE, "-i": "--info"}
        flag = known.get(name, name)
        if flag not in known.values():
            raise UserError(_no_flag(name))
        flags.append(flag + equals + value)
        if equals:
            continue
        if flag == "--info":
            flags[-1] += f"={rest.pop(0) if rest and rest[0] in _INFO else 'all'}"
        elif flag in _WITH_VALUE.values():
            if not rest:
                raise UserError(f"{name} needs a value: `python -m rankdistill --help` shows both.")
            flags.append(rest.pop(0))
    return [*flags, *overrides]


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of one's own recipes and options.

    Args:
        arguments: As `ordered` returns them.
    """
    apart = [Path(folder) for flag, folder in pairwise(arguments) if flag == "--config-dir"]
    return apart + [Path(w[13:]) for w in arguments if w.startswith("--config-dir=")]


def refuse_no_recipe(arguments: Sequence[str]) -> None:
    """Refuses a command that would start hours of work because a recipe was forgotten.

    Args:
        arguments: As `ordered` returns them.

    Raises:
        UserError: no recipe is named, and something would run.
    """
    flags = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    named = any(re.match(r"[+~]{0,2}recipe\b", word) for word in arguments)
    if named or flags & (_RUNS_NOTHING | _OTHER_CONFIG):
        return
    typed = shlex.join(arguments)
    raise UserError(
        "no recipe is given, so this would train the bundled model on all shipped prompts with the "
        "plain defaults of conf/config.yaml and take hours on two cores: add recipe=NAME (`python "
        f"-m rankdistill` lists them), or say recipe=none to run the defaults: python -m "
        f"rankdistill recipe=none {typed}"
    )


def word_remedy(word: str, arguments: Sequence[str] = ()) -> str:
    """What is said of a word that is no KEY=VALUE."""
    rest = shlex.join(arguments[list(arguments).index(word) + 1 :]) if word in arguments else ""
    no = f"the argument '{word}' is no KEY=VALUE"
    if word in catalogue.TOOLS:
        return f"'{word}' is a command of its own: python -m rankdistill.{word} {rest}".rstrip()
    if word in ("help", "version"):
        return f"{no}: did you mean --{word}?"
    groups = catalogue.groups()
    if word in groups:
        named = catalogue.RECIPES["Start here"] if word == "recipe" else groups[word]
        such = " or ".join(f"{word}={name}" for name in named[:2])
        return f"{no}: '{word}' is a group and needs one of its options, such as {such}"
    if word in groups["recipe"]:
        return f"{no}: did you mean recipe={word}?"
    having = [f"{group}={word}" for group, names in groups.items() if word in names]
    if having:
        return f"{no}: did you mean {' or '.join(having[:3])}?"
    near = get_close_matches(word, groups["recipe"], n=1, cutoff=0.75)
    return f"{no}: {f'did you mean recipe={near[0]}?' if near else 'take it away, or name its key'}"


def several_values(override: str, arguments: Sequence[str]) -> str:
    """What is said of `objective=pro,dpo` without -m."""
    key, _, value = override.partition("=")
    plain = value.strip("'\"").replace("'", "\\'")
    return (
        f"'{key}' has several values, which is a sweep and needs -m: python -m rankdistill -m "
        f"{shlex.join(arguments)}; one value with a comma is quoted twice, \"{key}='{plain}'\""
    )


def _checked(word: str, arguments: Sequence[str]) -> str:
    if "=" in word or word.startswith("~"):
        return word
    raise UserError(word_remedy(word, arguments))


def _no_flag(name: str) -> str:
    key = name.lstrip("-").replace("-", "_")
    known = [*_ALONE.values(), *_WITH_VALUE.values(), "--info"]
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    if near:
        return f"there is no option '{name}': did you mean {near[0]}?"
    from rankdistill.app.synonyms import ours

    if said := ours(key):
        return f"there is no option '{name}', since settings are written KEY=VALUE: {said}"
    return (
        f"there is no option '{name}': settings are written KEY=VALUE, without dashes, and "
        f"{suggest(name, known)}"
    )
