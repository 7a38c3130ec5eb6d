"""The run's configuration as `python -m rankdistill` composes it, and what the planner is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from rankdistill.app.config_errors import composition_errors, explain
from rankdistill.app.hydra_setup import open_replaced, own_code, register
from rankdistill.errors import UserError
from rankdistill.plan.config import PlanConfig, PlannerConfig, register_plan
from rankdistill.stages.settings import Settings, build
from rankdistill.stages.values import leave_out


def composed(
    overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[Settings, PlannerConfig, str]:
    """Settings of the run, those of the planner, and the name of the machine.

    Args:
        overrides: As a run takes them, with `hardware=NAME`, `hardware.KEY=` and `plan.KEY=`.
        config_dir: A folder with recipes and options of one's own, `hardware/` among them.

    Raises:
        UserError: a name, key or value that is not valid.
    """
    ours = [part for part in overrides if part.startswith(("hardware", "plan."))]
    theirs = [part for part in overrides if part not in ours]
    register()
    if config_dir is not None:
        own_code(config_dir)
    more = [f"hydra.searchpath=[file://{config_dir.absolute()}]"] if config_dir else []
    config = _compose("config", [*theirs, *more], theirs)
    leave_out(config, theirs)
    told = planner_config([*ours, *more], ours)
    named = [part.partition("=")[2] for part in ours if part.startswith("hardware=")]
    return build(config), told, named[-1] if named else "cpu2"


def planner_config(overrides: Sequence[str], arguments: Sequence[str] = ()) -> PlannerConfig:
    """The machine and the assumptions.

    Args:
        overrides: `hardware=NAME`, `hardware.KEY=`, `plan.KEY=` and Hydra's own.
        arguments: What a person gave of them.

    Raises:
        UserError: a name, key or value that is not valid.
    """
    register_plan()
    told: Any = OmegaConf.to_object(_compose("plan", overrides, arguments))
    return told


def _compose(name: str, overrides: Sequence[str], arguments: Sequence[str]) -> Any:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("rankdistill.conf", version_base="1.3"):
            return compose(name, list(overrides))
    except MissingConfigException as error:
        if (error.missing_cfg_file or "").startswith("hardware/"):
            asked = (error.missing_cfg_file or "").partition("/")[2]
            listed = ", ".join(sorted(error.options or []))
            raise UserError(
                f"there is no hardware named '{asked}': take one of {listed}, or one of your own "
                "as hardware/NAME.yaml in a folder for --config-dir."
            ) from error
        raise UserError(explain(error, arguments)) from error
    except composition_errors() as error:
        if open_replaced(error, arguments):
            return _compose(name, overrides, arguments)
        raise UserError(_explained(name, error, arguments)) from error


def _explained(name: str, error: Exception, arguments: Sequence[str]) -> str:
    if name == "config":
        return explain(error, arguments)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = ", ".join(f"plan.{key}" for key in PlanConfig.__dataclass_fields__)
    return f"the planner is told something that it cannot read ({lines[0]}); its keys are {keys}."
