"""Objectives: runs whose configurations are equal but for the seed, and what tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from rankdistill.compare.runs import FinishedRun, settings_of

_NO_DIFFERENCE = ("seed", "report_to", "name", "contrasts")
_LABEL_KEYS = 3
"""Most settings that a label names."""
_MISSING = "-"
PLACEBO = "rank.placebo"
"""The setting that deals the ranks of the training prompts at random."""


@dataclass(frozen=True)
class ObjectiveRuns:
    """Runs that differ in nothing but their seed."""

    label: str
    runs: list[FinishedRun]
    """In the order of their seeds; one per seed."""

    @property
    def by_seed(self) -> dict[int, FinishedRun]:
        return {run.seed: run for run in self.runs}

    @property
    def method(self) -> str:
        """What its title says that it was trained by: `DPO, 2 rounds`."""
        return _method(self.runs[0])

    @property
    def option(self) -> str | None:
        """The shipped option of `objective` that it is; None: none, or PPO, which reads none."""
        return _option(self.runs[0])

    @property
    def placebo(self) -> bool:
        """It was trained on permuted ranks, so that a gain of it is none of the ranking."""
        return _is_placebo(self.runs[0])


def objectives_of(runs: Sequence[FinishedRun]) -> list[ObjectiveRuns]:
    """The runs grouped, in the order in which they were given; of equal runs the last counts."""
    grouped: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        grouped.setdefault(repr(sorted(_settings(run).items())), {})[run.seed] = run
    groups = [[group[seed] for seed in sorted(group)] for group in grouped.values()]
    return [
        ObjectiveRuns(label, group) for label, group in zip(_labels(groups), groups, strict=True)
    ]


def differing_keys(runs: Iterable[FinishedRun]) -> list[str]:
    """The settings, seed aside, that are not the same in all runs."""
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if len({_told(values, key) for values in settings}) > 1]


def config_rows(objectives: Sequence[ObjectiveRuns]) -> list[list[str]]:
    """Key, then the value of every objective, `-` where it has none or does not read it."""
    firsts = [objective.runs[0] for objective in objectives]
    rows = [[key, *(_read(run, key) for run in firsts)] for key in differing_keys(firsts)]
    return [row for row in rows if len(set(row[1:])) > 1]


def _read(run: FinishedRun, key: str) -> str:
    """A setting as it is told, where the run has the stage that reads it."""
    stages = {stage["stage"] for stage in run.metrics["stages"]}
    unread = [f"{stage}." for stage in ("reward", "train") if stage not in stages]
    if "train" not in stages or _is_ppo(run):
        unread.append("objective.")
    return _MISSING if key.startswith(tuple(unread)) else _told(_settings(run), key)


def _is_ppo(run: FinishedRun) -> bool:
    """Its policy learns from a reward, and reads no objective."""
    return any(name.startswith("train.rollout.") for name in run.config)


def _settings(run: FinishedRun) -> dict[str, Any]:
    """Runs from before there were placebos have the setting too.

    A seed of a part of the run, such as that of its demands, is the run's unless it is given.
    """
    values = {
        key: value
        for key, value in run.config.items()
        if key not in _NO_DIFFERENCE and not (key.endswith(".seed") and value == run.seed)
    }
    return values | {PLACEBO: _is_placebo(run)}


def _is_placebo(run: FinishedRun) -> bool:
    return run.config.get(PLACEBO) is True


def _told(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return _MISSING
    value = settings[key]
    if isinstance(value, str) and key.endswith("_target_"):
        return value.rpartition(".")[2]
    return "null" if value is None else str(value)


def _labels(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """A placebo is called like the objective that is equal but for it, and a placebo."""
    firsts = [group[0] for group in groups]
    apart: dict[str, FinishedRun] = {}
    for run in firsts:
        apart.setdefault(_key(run), run)
    names = dict(zip(apart, _names(list(apart.values())), strict=True))
    return [names[_key(run)] + (", placebo" if _is_placebo(run) else "") for run in firsts]


def _key(run: FinishedRun) -> str:
    """Equal where runs differ in nothing but their seed and the placebo."""
    return repr(sorted((_settings(run) | {PLACEBO: False}).items()))


def _names(firsts: Sequence[FinishedRun]) -> list[str]:
    """Method and recipe where that tells all apart; else what differs is said beside the method."""
    recipes = [str(run.metrics["recipe"]) for run in firsts]
    methods = list(map(_method, firsts))
    if len(set(recipes)) == len(recipes) > 1:
        return [_named(method, recipe) for method, recipe in zip(methods, recipes, strict=True)]
    if len(set(methods)) == len(methods):
        return methods
    # What two runs of one method differ in is said, beside the method where there are several.
    shared = Counter(methods)
    labels = []
    for run, method in zip(firsts, methods, strict=True):
        alike = [other for other, name in zip(firsts, methods, strict=True) if name == method]
        options = [_option(other) for other in alike]
        option = _option(run)
        if option is not None and None not in options and len({*options}) == len(options) > 1:
            labels.append(_named(method, option))
            continue
        keys = [key for key in differing_keys(alike) if key != PLACEBO]
        said = _said(run, keys) if shared[method] > 1 else ""
        alone = len(shared) == 1 and said
        labels.append(said if alone else f"{method} ({said})" if said else method)
    return _unique(labels)


def _method(run: FinishedRun) -> str:
    return str(run.metrics["title"]).partition(":")[0].replace("Warmup", " warm-up")


def _named(method: str, option: str) -> str:
    """Both, or the method alone where the recipe or objective is called like it, or is none."""
    return method if option in ("none", method.lower()) else f"{method} ({option})"


def _option(run: FinishedRun) -> str | None:
    """The shipped option of `objective` that has a run's values: `rpo`; None: none, or not read."""
    if run.config.get("rounds") == 0 or _is_ppo(run):
        return None
    own = {key: value for key, value in run.config.items() if key.startswith("objective.")}
    return next((name for name, values in _shipped().items() if values == own), None)


@cache
def _shipped() -> Mapping[str, Mapping[str, Any]]:
    folder = files("rankdistill.conf") / "objective"
    shipped = {}
    for file in folder.iterdir():
        name, dot, suffix = file.name.rpartition(".")
        if dot and suffix == "yaml":
            shipped[name] = settings_of({"objective": yaml.safe_load(file.read_text("utf-8"))})
    return shipped


def _said(run: FinishedRun, keys: Sequence[str]) -> str:
    settings = _settings(run)
    own = [key for key in keys if key in settings]
    parts = []
    for key in own[:_LABEL_KEYS]:
        name = key.rpartition(".")[2]
        told = _told(settings, key)
        parts.append(told if name == "_target_" else f"{name.replace('_', ' ')} {told}")
    more = len(own) - _LABEL_KEYS
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _unique(labels: Sequence[str]) -> list[str]:
    """The labels, numbered where two are the same."""
    count, seen, result = Counter(labels), Counter(), []
    for label in labels:
        seen[label] += 1
        result.append(f"{label} ({seen[label]})" if count[label] > 1 else label)
    return result
