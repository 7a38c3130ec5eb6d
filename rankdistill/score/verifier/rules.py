"""The rules by name, those of the user's own among them, and what is said of one response.

A configuration names a rule as `module:function`, and configurations are copied from elsewhere, so
not everything that can be imported may be called: the name must be public, the module neither
Python's own nor that of an installed package or of this one, and the function written in that
very module.
`os:system`, `builtins:eval`, `torch.hub:load`, `my_checks:_hidden` and a `system` that `my_checks`
merely imported are refused, all but the last before anything is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.score.verifier import answers, instructions
from rankdistill.score.verifier.answers import Check
from rankdistill.store.inputs import sha256

_PACKAGE = Path(__file__).parents[2]
_LATER = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
"""Flags of functions of which a call computes nothing."""
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*:[A-Za-z]\w*")


def load_function(path: str) -> Callable[..., Any]:
    """The function. UserError: unsafe, not there, or it does not take a response and columns."""
    module_name, name = _parts(path)
    file = _file(path)
    try:
        module = _imported(module_name, file)
    except Exception as error:
        raise _not_imported(module_name, error) from error
    function = getattr(module, name, None)
    if not inspect.isfunction(function) or function.__module__ != module_name:
        raise UserError(
            f"score.rule={path} is refused: '{name}' must be a function that is written in "
            f"{module_name} itself."
        )
    try:
        inspect.signature(function).bind("response", {})
    except TypeError as error:
        raise UserError(
            f"score.rule={path} must take two arguments, the response's text and a dict of the "
            f"prompt's kept columns, and return a number ({error})."
        ) from error
    if function.__code__.co_flags & _LATER:
        raise UserError(
            f"score.rule={path} must return a number when it is called: write it with `def` and "
            "`return`, not as `async def` or with `yield`."
        )
    return function


def _not_imported(module: str, error: Exception) -> UserError:
    return UserError(
        f"The module {module} of score.rule can't be imported: {error} ({type(error).__name__})."
    )


class _FromSource(SourceFileLoader):
    """Takes no bytecode. Python takes it for that of another source of the same size and second,
    which the files of images and archives have, and its values would be kept as this source's."""

    def get_code(self, fullname: str) -> CodeType:
        file = self.get_filename(fullname)
        return self.source_to_code(self.get_data(file), file)


def _imported(name: str, file: Path) -> ModuleType:
    if package := name.rpartition(".")[0]:
        importlib.import_module(package)
    if name in sys.modules:
        return sys.modules[name]
    loader = _FromSource(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_digest(path: str) -> str:
    """SHA-256 of the module's source: another source may give other values."""
    return sha256(_file(path))


def _parts(path: str) -> tuple[str, str]:
    if not _NAME.fullmatch(path):
        raise UserError(
            f"score.rule={path} is refused: give module:function, both without a leading "
            "underscore."
        )
    module, _, name = path.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(
            f"score.rule={path} is refused: '{module}' belongs to Python itself; write a "
            "function of your own that calls what you need."
        )
    return module, name


def _file(path: str) -> Path:
    """The module's source; each package is found to be safe before the one in it is looked for."""
    module, _ = _parts(path)
    spec = None
    for end in (*(found.start() for found in re.finditer(r"\.", module)), len(module)):
        spec = _spec(module[:end])
        for place in [] if spec is None else _places(spec):
            if owner := _owner(place):
                raise UserError(
                    f"score.rule={path} is refused: '{module}' belongs to {owner}; write a "
                    "function of your own, in a file beside your configuration, that calls what "
                    "you need."
                )
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(
            f"The module of score.rule={path} is not there as Python source: put "
            f"{module.replace('.', '/')}.py into the working directory."
        )
    return Path(spec.origin)


def _places(spec: ModuleSpec) -> list[Path]:
    """Where a module's code is; of a namespace package, which has none, its one portion."""
    if spec.origin is not None:
        return [Path(spec.origin)]
    portions = [*(spec.submodule_search_locations or ())]
    return [Path(portions[0])] if len(portions) == 1 else []


def _owner(place: Path) -> str | None:
    """Whose a module is, other than the user's."""
    inside = {place, *place.parents}
    paths = sysconfig.get_paths()
    installed = {Path(paths[name]) for name in ("purelib", "platlib")}
    if installed & inside or {"site-packages", "dist-packages"} & set(place.parts):
        return "an installed package"
    if {Path(paths[name]) for name in ("stdlib", "platstdlib")} & inside:
        return "Python itself"
    return "rankdistill" if _PACKAGE in inside else None


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    except Exception as error:  # of the package that it is in
        raise _not_imported(module, error) from error


@dataclass(frozen=True)
class Rule:
    """What makes a check; the fields are the keys of `score=verifier`."""

    rule: str
    column: str
    pattern: str | None

    @property
    def own(self) -> bool:
        """Whether it is a function of the user's."""
        return ":" in self.rule


@dataclass(frozen=True)
class Checked:
    """What came of checking one response: a value, or the reason why there is none."""

    value: float | None = None
    """None: the rule has no value for it, or one of the other fields says why."""
    failed: str = ""
    """What the check failed by, on this response."""
    column: str = ""
    """The column that the prompt does not have."""
    mistake: str = ""
    """What is wrong for every response."""


def check_of(rule: Rule) -> Check:
    """The check. UserError: there is none of that name, or what it needs is missing."""
    if rule.own:
        return load_function(rule.rule)
    if rule.rule not in _CHECKS:
        raise UserError(
            f"score.rule is '{rule.rule}', which is neither a check nor a "
            f"module:function: {suggest(rule.rule, _CHECKS)}"
        )
    return _CHECKS[rule.rule](rule.column, rule.pattern)


_CHECKS: dict[str, Callable[[str, str | None], Check]] = {
    "number": answers.number,
    "math": answers.math_verify,
    "regex": answers.regex,
    "json_schema": answers.json_schema,
    "ifeval": instructions.ifeval,
    "reasoning_gym": answers.reasoning_gym,
}
