"""A sweep: all points are checked before the first one runs, and what became of each is told.

Hydra's sweepers and launchers do the rest. A point is an ordinary run in a folder of its own; since
stage outputs are shared, a sweep that is run again computes what is missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback

from rankdistill.distributed import say_mistake
from rankdistill.errors import FAILURE, UserError

PACKAGES = {
    "hydra_joblib_launcher": "joblib",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "submitit",
    "hydra_optuna_sweeper": "optuna",
}
"""The extra of this package that brings a plug-in of Hydra."""

_RESULTS = ("metrics.json", FAILURE, ".hydra/overrides.yaml")


@dataclass(frozen=True)
class Outcome:
    """What became of a point."""

    name: str
    folder: Path
    state: str
    """`ok`, `reused` or `failed`."""
    sentence: str = ""
    """Why it failed."""


class Sweep(Callback):
    """Hydra's callback of a multirun, and of a run for what must not be written down."""

    current: Sweep | None = None
    """The one that runs in this process."""

    def __init__(self) -> None:
        self.folder = Path()
        self.points: dict[Path, list[str]] = {}
        """The overrides of every point that is known beforehand, by its run folder."""
        self._before: dict[Path, tuple[int, ...]] = {}

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Hydra writes the configuration into the run folder next."""
        from rankdistill.stages.values import refuse_secrets

        try:
            refuse_secrets(config)
        except UserError as error:
            _refuse("", str(error))

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Hydra takes an exception for a warning, so what is wrong ends the process here."""
        from rankdistill.app.config_errors import composition_errors, explain

        self.folder = Path(config.hydra.sweep.dir).absolute()
        name, overrides = "", []
        try:
            _check_plug_ins(config)
            points = _points(config)
            checked = []
            for name, overrides in zip(_names(points), points, strict=True):  # noqa: B007
                point = _checked(config, overrides, len(self.points))
                checked.append(point)
                if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
                    self.points[point.folder] = overrides
            name = ""
            if self.points:  # all there will be
                check_contrasts(checked)
        except UserError as error:
            _refuse(name, str(error))
        except composition_errors() as error:
            _refuse(name, explain(error, overrides))
        found = {path.parent for path in self.folder.glob("*/.hydra")}
        self._before = {folder: _stamps(folder) for folder in found | set(self.points)}
        Sweep.current = self

    def finish(self) -> bool:
        """Prints every point's outcome; returns whether all finished."""
        from rankdistill.console import is_main_process, say

        if not is_main_process():  # which writes the run folders, and may not have yet
            return True
        outcomes = self.outcomes()
        say(f"\n[bold]sweep[/]  {self.folder}")
        for outcome in outcomes:
            line = f"{outcome.state:<7} {outcome.name}"
            say(f"{line}: {outcome.sentence}" if outcome.sentence else line)
        return not any(outcome.state == "failed" for outcome in outcomes)

    def outcomes(self) -> list[Outcome]:
        """Of the points that were known beforehand, or that a sweeper chose meanwhile."""
        chosen = dict(self.points)
        if not chosen:
            for folder in sorted(path.parent for path in self.folder.glob("*/.hydra")):
                if _stamps(folder) != self._before.get(folder):
                    chosen[folder] = _overrides_of(folder)
        names = _names(list(chosen.values()))
        return [self._outcome(*point) for point in zip(names, chosen, strict=True)]

    def _outcome(self, name: str, folder: Path) -> Outcome:
        metrics, failure, _ = _stamps(folder)
        metrics_before, failure_before, _ = self._before.get(folder, (0, 0, 0))
        if failure and failure != failure_before:
            reason = (folder / FAILURE).read_text(encoding="utf-8").strip()
            return Outcome(name, folder, "failed", reason)
        if not metrics or metrics == metrics_before:
            reason = "it did not finish; the same command continues it."
            return Outcome(name, folder, "failed", reason)
        stages = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["stages"]
        reused = all(stage["reused"] for stage in stages)
        return Outcome(name, folder, "reused" if reused else "ok")


def _names(points: Sequence[Sequence[str]]) -> list[str]:
    """Every point by the overrides that it does not share with all others."""
    common = set.intersection(*map(set, points)) if len(points) > 1 else set()
    return [",".join(override for override in point if override not in common) for point in points]


def _refuse(point: str, sentence: str) -> NoReturn:
    say_mistake(f"{point}: {sentence}" if point else sentence)
    sys.exit(2)


def _check_plug_ins(config: Any) -> None:
    for group in ("launcher", "sweeper"):
        package = ".".join(config.hydra[group]._target_.split(".")[:2])
        name = package.partition(".")[2]
        if name in PACKAGES and not _installed(package):
            option, extra = config.hydra.runtime.choices[f"hydra/{group}"], PACKAGES[name]
            raise UserError(
                f"hydra/{group}={option} needs the package {name.replace('_', '-')}: "
                f"pip install 'rankdistill[{extra}]'."
            )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent is there
        return False


def _points(config: Any) -> list[list[str]]:
    """The overrides of every point.

    Of a sweeper that chooses among them: points that have each listed value once.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from_config = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*from_config, *config.hydra.overrides.task])
    if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
        return BasicSweeper.split_arguments(overrides, None)[0]
    values = [_listed(override) for override in overrides]
    usual = [listed[0] for listed in values]
    return [usual] + [
        [*usual[:place], value, *usual[place + 1 :]]
        for place, listed in enumerate(values)
        for value in listed[1:]
    ]


def _listed(override: Any) -> list[str]:
    """An override with each value that it lists; of an interval, its start."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.value().start}"]


@dataclass(frozen=True)
class CheckedPoint:
    """A point whose configuration composes and builds."""

    folder: Path
    config: Any
    recipe: str
    method: str
    overrides: Sequence[str]


def check_contrasts(points: Sequence[CheckedPoint]) -> None:
    """UserError: a contrast names an objective that no point is, which would be told at the end."""
    if not any(point.config.contrasts for point in points):
        return
    from omegaconf import OmegaConf

    from rankdistill.compare.contrasts import contrasts_of, names_of
    from rankdistill.compare.groups import objectives_of
    from rankdistill.compare.runs import FinishedRun, chosen_objectives, settings_of

    runs = [
        FinishedRun(
            point.folder,
            {
                "recipe": point.recipe,
                "title": f"{point.method}: ",
                "statistics": {"seed": point.config.seed},
            },
            settings_of(OmegaConf.to_container(point.config, resolve=True, enum_to_str=True)),
            chosen_objectives(point.overrides),
        )
        for point in points
    ]
    names = dict.fromkeys(name for point in points for name in point.config.contrasts)
    contrasts_of(names, names_of(objectives_of(runs)))


def _checked(config: Any, overrides: Sequence[str], number: int = 0) -> CheckedPoint:
    """A point, looked at before any runs.

    Raises:
        UserError: one of its values is refused; Hydra's and OmegaConf's errors as they are.
    """
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict

    from rankdistill.app.config_errors import composition_errors
    from rankdistill.app.hydra_setup import open_replaced
    from rankdistill.stages import settings
    from rankdistill.stages.prompts import check_prompts
    from rankdistill.stages.rounds import method
    from rankdistill.stages.values import leave_out

    loader = GlobalHydra.instance().config_loader()
    try:
        composed = loader.load_sweep_config(config, list(overrides))
    except composition_errors() as error:
        if not open_replaced(error, overrides):
            raise
        return _checked(config, overrides, number)
    with open_dict(composed):  # as the launcher does, for a subdir that is made of them
        composed.hydra.job.num, composed.hydra.job.id = number, f"job_{number}"
    folder = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir).absolute()
    recipe = composed.hydra.runtime.choices.get("recipe") or "none"
    with open_dict(composed):
        del composed["hydra"]
    leave_out(composed, overrides)  # the point itself says what
    built = settings.build(composed)
    check_prompts(built)
    return CheckedPoint(folder, composed, recipe, method(built), overrides)


def _stamps(folder: Path) -> tuple[int, ...]:
    """When each of a point's results was written, 0 where it is not there."""
    paths = [folder / name for name in _RESULTS]
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


def _overrides_of(folder: Path) -> list[str]:
    from omegaconf import OmegaConf

    return [str(override) for override in OmegaConf.load(folder / _RESULTS[-1])]
