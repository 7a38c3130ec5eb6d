"""The run's configuration as `python -m rankdistill` composes it, and what the planner is told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from rankdistill.app.config_errors import composition_errors, explain
from rankdistill.app.hydra_setup import own_code, register
from rankdistill.errors import UserError
from rankdistill.plan.config import PlanConfig, PlannerConfig, register_plan
from rankdistill.stages.settings import Settings, build


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
    register_plan()
    more = [f"hydra.searchpath=[file://{config_dir.absolute()}]"] if config_dir else []
    config = _compose("config", [*theirs, *more], theirs)
    told: Any = OmegaConf.to_object(_compose("plan", [*ours, *more], ours))
    named = [part.partition("=")[2] for part in ours if part.startswith("hardware=")]
    return build(config), told, named[-1] if named else "cpu2"


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
        raise UserError(_explained(name, error, arguments)) from error


def _explained(name: str, error: Exception, arguments: Sequence[str]) -> str:
    if name == "config":
        return explain(error, arguments)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = ", ".join(f"plan.{key}" for key in PlanConfig.__dataclass_fields__)
    return f"the planner is told something that it cannot read ({lines[0]}); its keys are {keys}."


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m rankdistill.plan",
        description="Work out what a run would need of a machine, without loading any weights.",
        epilog="Example: python -m rankdistill.plan recipe=zephyr_7b hardware=8xa100",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        help="as of `python -m rankdistill`, and hardware=NAME (cpu2), hardware.KEY=, plan.KEY=",
    )
    made.add_argument("--json", action="store_true", help="figures for programs, in bytes and s")
    made.add_argument("--config-dir", type=Path, metavar="DIR", help="recipes, options, hardware")
    return made
