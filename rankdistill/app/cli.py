"""The command line: `python -m rankdistill recipe=rrhf`.

Hydra composes `conf/`, the recipes and the suites; this module offers the latter two as groups,
names the run folder after the command, and says a person's mistake in one sentence (exit code 2).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rankdistill.app import catalogue
from rankdistill.app.hydra_setup import register
from rankdistill.app.job import ANOTHER_FOLDER, Job
from rankdistill.distributed import say_mistake

USAGE = """rankdistill - a student writes, a teacher ranks, the student learns the ranking.

usage: python -m rankdistill recipe=NAME [group=OPTION] [key=value] ...
       python -m rankdistill -m recipe=NAME seed=0,1,2        a sweep: one run per value
       python -m rankdistill recipe=NAME --cfg job            print every key, run nothing

Flags are Hydra's: -m/--multirun, --cfg job, --info defaults, --config-dir DIR (a folder with your
own recipes and options), --hydra-help. hydra.verbose=true shows tracebacks.
Outputs are kept in $RANKDISTILL_HOME (~/.cache/rankdistill): `python -m rankdistill.store` lists
them.
"""


def list_recipes() -> str:
    """The recipes with what they do and need, for a terminal."""
    lines = ["Recipes:"]
    for recipe in catalogue.recipes():
        lines += [f"  {recipe.name}", f"      {recipe.what}", f"      needs {recipe.needs}"]
    return "\n".join(lines)


def list_groups() -> str:
    """The options of every group, for a terminal."""
    lines = ["Groups and their options:"]
    lines += [f"  {group}: {', '.join(names)}" for group, names in catalogue.groups().items()]
    return "\n".join(lines)


def _enter(entry: Callable[[], object]) -> None:
    """Composes and runs.

    Hydra composes a sweep's own configuration without the groups that it sweeps over, so a key that
    only their options have (`-m recipe=zephyr,zephyr_rrhf warmup.conversations=FILE`) is unknown
    there. As a choice of one it is left to the points, each of which is checked before the first.
    """
    from hydra.errors import HydraException

    from rankdistill.app.config_errors import unknown_override

    while True:
        try:
            entry()
            return
        except HydraException as error:
            key = unknown_override(error)
            if not {"-m", "--multirun"} & set(sys.argv) or not _left_to_points(f"{key}="):
                raise


def _left_to_points(key: str) -> bool:
    """Makes values that the command line gives a key choices of one; whether there were any."""
    found = False
    for place, given in enumerate(sys.argv):
        value = given.removeprefix(key)
        if value != given and not value.startswith("choice("):
            sys.argv[place], found = f"{key}choice({value})", True
    return found


def main() -> None:
    """Entry point of `python -m rankdistill` and of the `rankdistill` script."""
    arguments = sys.argv[1:]
    if not arguments:
        print(f"{USAGE}\n{list_recipes()}")
        return
    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\n{list_recipes()}\n\n{list_groups()}")
        return
    # Hydra then raises instead of printing a traceback of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rankdistill.app.config_errors import explain
    from rankdistill.app.sweep import Sweep

    register()
    job, Sweep.current = Job(), None
    entry = hydra.main(
        config_path="pkg://rankdistill.conf", config_name="config", version_base="1.3"
    )(job)
    try:
        _enter(entry)
    except (HydraException, OmegaConfBaseException) as error:
        if "hydra.verbose=true" in arguments:
            raise
        say_mistake(explain(error, arguments))
        sys.exit(2)
    except OSError as error:
        # Hydra makes the run folder before it calls the job.
        if job.begun or "hydra.verbose=true" in arguments:
            raise
        say_mistake(f"The run folder cannot be made ({error}): {ANOTHER_FOLDER}.")
        sys.exit(2)
    finally:
        swept = Sweep.current is None or Sweep.current.finish()
    if job.failed or not swept:
        sys.exit(2)
