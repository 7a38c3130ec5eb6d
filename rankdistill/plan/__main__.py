"""`python -m rankdistill.plan recipe=NAME [overrides] hardware=NAME`: a table, or `--json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankdistill import shell
from rankdistill.errors import UserError


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan; exit code 2 on a person's mistake."""
    given = _parser().parse_args(arguments)

    from rankdistill.plan.compose import composed

    settings, told, machine = composed(given.overrides, given.config_dir)
    from rankdistill.plan import table
    from rankdistill.plan.planner import Planner
    from rankdistill.plan.stages import stages
    from rankdistill.plan.suites import unplanned

    planner = Planner(settings, told.plan, told.hardware)
    found = stages(planner)
    if not found:
        raise UserError(
            f"nothing is trained, and what eval=[{','.join(unplanned(settings))}] takes depends "
            "on rows or judges that a plan does not read: there is nothing to plan."
        )
    if given.json:
        json.dump(table.as_json(planner, found, machine), sys.stdout, indent=1)
        print()
    else:
        _show(planner, found, machine)
    return 0


def _show(planner: Any, found: Sequence[Any], machine: str) -> None:
    from rich.console import Console

    from rankdistill.plan import served, table
    from rankdistill.plan.suites import unplanned

    console = Console(highlight=False)
    width = max(60 if console.is_terminal else table.WIDTH, console.width)
    wide = Console(highlight=False, width=width)
    counts, hardware = planner.counts, planner.hardware
    wide.print(
        f"{machine}: {hardware.devices} x {hardware.memory_gib:g} GiB; memory is of one device. "
        f"{counts.train:,} + {counts.validation:,} + {counts.heldout:,} prompts\n"
        f"(train, validation, held out) of {counts.prompt:.0f} tokens, responses of "
        f"{counts.response:.0f}.\n"
    )
    wide.print(table.table(planner, found, width))
    wide.print()
    wide.print(table.peak(found))
    for line in served.who_does_what(planner, found):
        wide.print(line, soft_wrap=True)
    if left_out := unplanned(planner.settings):
        wide.print(f"Not counted: eval=[{','.join(left_out)}].", markup=False, soft_wrap=True)
    if planner.plan.machines > 1 or planner.plan.price is not None:
        wide.print(table.told(table.of_machines(planner, found)), soft_wrap=True)
    for line in table.misfits(planner, found) or ["Everything fits."]:
        wide.print(line, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    made = shell.parser(
        "plan",
        "Work out what a run would need of a machine, without loading any weights.",
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


if __name__ == "__main__":
    sys.exit(shell.run(main))
