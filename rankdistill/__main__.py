"""`python -m rankdistill`, and the `rankdistill` script."""

from __future__ import annotations

from typing import Any

from rankdistill.app import cli


def command() -> None:
    """The command line, which tells beforehand how long a run may take."""
    cli.command(_planned)


def _planned(settings: Any) -> str:
    """The planner, which itself composes runs as the command line does, is above it here alone."""
    from rankdistill.plan.estimate import planned

    return planned(settings)


if __name__ == "__main__":
    command()
