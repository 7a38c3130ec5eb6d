"""Hydra's, OmegaConf's and PyYAML's errors as one sentence with the nearest valid names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rankdistill.app.command_line import several_values, word_remedy
from rankdistill.app.synonyms import ours
from rankdistill.errors import suggest
from rankdistill.stages.values import OF_OPTIONS

OF_A_FILE = ("prompts", "rank", "student", "teacher")
"""Groups that a person gives a file or a model, which is their key `path`."""


def composition_errors() -> tuple[type[Exception], ...]:
    """What composing raises of a mistake on the command line or in a YAML file."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # OmegaConf's of keys for a group that is null is an AttributeError or an AssertionError.
    plain = (YAMLError, ValueError, RecursionError, AttributeError, AssertionError)
    return HydraException, OmegaConfBaseException, *plain


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """What a person did wrong on the command line or in a recipe, and what would be right.

    Args:
        error: What was raised while composing.
        arguments: The command line, for the group choices that the valid names depend on.
    """
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    text = _innermost(error)
    if type(error) in (AttributeError, AssertionError):
        below = key_below_null(error, arguments)
        key = below and below.rpartition(".")[0]
        if "full_key: " in str(error):
            key = str(error).partition("full_key: ")[2].split()[0]
        if key is None:
            raise error  # a fault of ours, which a sentence would hide
        return f"{key} is null, which takes no keys: choose an option of its group that has them."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return explain_yaml(error, arguments) or _first_sentence(text)
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), arguments)
    if "Ambiguous value for argument" in text:
        argument = re.search(r"argument '(.*?)'\.?\n", text)
        if argument:
            return several_values(argument[1], arguments)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if path := _path_key(error.missing_cfg_file):
            return path
        if group:
            valid = _options(group) or list(error.options or [])
            return f"there is no {group} named '{name}': {suggest(name, valid)}"
    unknown_group = re.search(
        r"Could not override '([^'@]+)'\.\s*No match in the defaults list", text
    )
    if unknown_group:
        name = unknown_group[1]
        remedy = ours(name) or suggest(name, _keys("", arguments))
        return f"there is no group '{name}': {remedy}"
    unknown = unknown_override(error)
    if unknown:
        return _unknown_key(unknown, "on the command line", arguments)
    key = re.search(r"full_key: (\S+)", text)
    if key and re.search(r"not in|is not in struct", text):
        where = re.search(r"In '([^']+)'", text)
        return _unknown_key(
            key[1], f"in {where[1]}" if where else "in the configuration", arguments
        )
    if key and (shape := _other_shape(key[1], text, arguments)):
        return shape
    if key and (wrong := _wrong_kind(key[1], text)):
        return wrong
    if folder := re.search(r"Additional config directory '(.+)' not found", text):
        return f"there is no folder '{folder[1]}' for --config-dir: give the one with your files"
    where = f"{key[1]}: " if key else ""
    return where + _first_sentence(text)


def _other_shape(key: str, text: str, arguments: Sequence[str]) -> str | None:
    """What is said of one value, a list or a mapping where another of these belongs; or None."""
    if "is not a ListConfig" in text or "Cannot merge ListConfig with DictConfig" in text:
        return f"{key} takes a list, as in '{key}=[first,second]'"
    a_list = "Cannot merge DictConfig with ListConfig" in text
    if a_list and (keys := _keys(key, arguments)):
        return f"{key} takes no list, and has keys of its own: {', '.join(keys)}"
    return None


_KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
_NOT_OF_KIND = re.compile(
    r"Value '(.*)' (?:of type '\w+' could not be converted to (\w+)|is not a valid (bool))"
)


def _wrong_kind(key: str, text: str) -> str | None:
    """The sentence where a value is not of its key's kind."""
    meaning = f"`python -m rankdistill {key} --explain` says what it means"
    if "is not Optional" in text:
        return f"{key} takes a value, and not null: {meaning}"
    if not (found := _NOT_OF_KIND.search(text)):
        return None
    kind = found[2] or found[3]
    return f"{key} takes {_KINDS.get(kind, kind)}, and '{found[1]}' is none: {meaning}"


def _unreadable(override: str, arguments: Sequence[str]) -> str:
    """What is said of an argument that Hydra's grammar does not take, with the quotes it needs."""
    key, equals, value = override.partition("=")
    if not equals:
        return word_remedy(override)
    if not key.isascii():
        return _unknown_key(key.lstrip("+~"), "on the command line", arguments)
    if re.fullmatch(r"\[.*\]|\{.*:.*\}", value):
        written = f"{key}={_ITEM.sub(_quoted_item, value)}"
        if not _parses(written):
            return (
                f"the value of '{key}' is no list [a, b] and no mapping {{name: value}} that Hydra "
                "reads (a name cannot be quoted): write it into a recipe of your own, a YAML file "
                "(--config-dir)"
            )
    else:
        plain = value.strip("'\"")
        written = f"{key}={_quoted(plain)}"
    # Within double quotes a shell reads some characters as its own.
    is_read = any(sign in written for sign in ("$", "`", '"', "\\\\"))
    typed = shlex.quote(written) if is_read else f'"{written}"'
    return (
        f"the value of '{key}' has a character that Hydra reads as its own: quote it twice, as in "
        f"{typed}"
    )


_ITEM = re.compile(r"[^\s{}\[\],:'\"][^{}\[\],:'\"]*")
"""A name or a value inside a list or a mapping, up to the sign behind it."""


def _quoted_item(item: re.Match[str]) -> str:
    text = item[0].rstrip()
    return text if re.fullmatch(r"[\w/.\-+*$%@?|\\ ]*", text, re.ASCII) else _quoted(text)


def _quoted(text: str) -> str:
    """In Hydra's single quotes; a backslash counts there only before a quote."""
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", text)
    return f"'{escaped}'"


def _parses(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        OverridesParser.create().parse_overrides([override])
    except OverrideParseException:
        return False
    return True


def _path_key(missing: str) -> str | None:
    """The remedy where a group was given a path, such as `student=Qwen/Qwen2.5-0.5B-Instruct`."""
    group, _, path = missing.partition("/")
    looks_like_path = "/" in path or "." in path or path.startswith("~")
    if group not in OF_A_FILE or not looks_like_path:
        return None
    what = "a model" if group in ("student", "teacher") else "a file or data set"
    return f"'{path}' is no option of {group}; {what} is given as {group}.path={path}"


def replaced_option(error: Exception, arguments: Sequence[str]) -> str | None:
    """The group of a recipe's key that its option, chosen by the command line, has not; or None."""
    text = _innermost(error)
    key, recipe = re.search(r"full_key: (\w+)\.", text), re.search(r"In 'recipe/", text)
    if not (key and recipe and key[1] in OF_OPTIONS and "' not in '" in text):
        return None
    return key[1] if any(word.startswith(f"{key[1]}=") for word in arguments) else None


def unknown_override(error: Exception) -> str | None:
    """The key that an override names and no configuration has; None of any other error."""
    match = re.search(r"Could not override '([^'@]+)'\.(?!\s*No match)", _innermost(error))
    return match[1] if match else None


def key_below_null(error: Exception, arguments: Sequence[str]) -> str | None:
    """The key of an override below one that is null, which OmegaConf does not name; or None."""
    if not str(error).startswith("Unexpected type for root"):
        return None
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        parent = key.rpartition(".")[0]
        left_to_points = value.startswith("choice(")
        if "." in parent and not left_to_points and not _keys(parent, arguments):
            return key
    return None


def _innermost(error: BaseException) -> str:
    """The messages of the error and of its causes: Hydra wraps OmegaConf's, which name the key."""
    messages = []
    current: BaseException | None = error
    while current is not None:
        messages.append(str(current))
        current = current.__cause__
    return "\n".join(messages)


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [
        line
        for line in lines
        if not line.startswith(("full_key:", "object_type=", "reference_type=", "In '"))
        and not line.startswith("Error merging override")
    ]
    return (useful or lines or ["the configuration is not valid"])[0]


def _unknown_key(key: str, where: str, arguments: Sequence[str]) -> str:
    parent, _, name = key.rpartition(".")
    valid = _keys(parent, arguments)
    if not valid and parent:  # the parent itself is unknown
        return _unknown_key(parent, where, arguments)
    if name in valid:
        return f"'{key}' can't be set ({where}): '{parent}' has a value there in place of keys"
    inside = f"'{parent}' has no key '{name}'" if parent else f"there is no key '{name}'"
    remedy = None if name in valid else ours(key)
    return f"{inside} ({where}): {remedy or suggest(name, valid)}"


def _options(group: str) -> list[str]:
    from rankdistill.app import catalogue

    return catalogue.groups().get(group, [])


def _keys(parent: str, arguments: Sequence[str]) -> list[str]:
    """The valid keys below `parent`, with the group options that the command line chose."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rankdistill.app import catalogue

    groups = catalogue.groups()
    choices = [
        argument
        for argument in arguments
        if (split := argument.split("=", 1))[0] in groups
        and len(split) == 2
        and split[1] in groups[split[0]]
        and split[0] not in ("recipe", "eval")
    ]
    recipe = [argument for argument in arguments if argument.startswith("recipe=")]
    for chosen in ([*recipe, *choices], choices):  # the mistake may be in the recipe
        GlobalHydra.instance().clear()
        try:
            with initialize_config_module("rankdistill.conf", version_base="1.3"):
                config = compose("config", chosen)
        except (HydraException, OmegaConfBaseException):
            continue
        node = OmegaConf.select(config, parent) if parent else config
        return [str(key) for key in node] if isinstance(node, DictConfig) else []
    return []


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
        return _not_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return _not_utf_8(arguments)
    if isinstance(error, RecursionError):
        return (
            "a defaults list comes back to its own file, directly or through others "
            f"({', '.join(chosen) or 'the command line'}): take out the name that closes the circle"
        )
    return _misplaced(str(error), chosen)


def _not_yaml(error: Exception) -> str:
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
    folders = re.findall(r"(?:--config-dir|-cd)[= ]([^ ]+)", line)
    folders += re.findall(r"file://([^\],' ]+)", line)
    for folder in folders:
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
