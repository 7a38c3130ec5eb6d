"""Trackers of the training stages: which there are, and where each writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError, suggest

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Names for `report_to`, and the modules they need."""

PACKAGES = {"tensorboard": "tensorboard"}
"""What brings a tracker, where it is not an extra of this package."""


def chosen_trackers(report_to: str | Sequence[str] | None) -> list[str]:
    """The names in `report_to`: one, or a list.

    Raises:
        UserError: a tracker that there is not, or that is not installed.
    """
    given: Any = report_to  # a configuration may hold anything
    many = isinstance(given, Sequence) and not isinstance(given, str)
    names: list[Any] = list(given) if many else [] if given is None else [given]
    for name in names:
        if name not in TRACKERS:
            raise UserError(
                f"there is no tracker '{name}' (report_to): {suggest(str(name), TRACKERS)}"
            )
        if (missing := lacks_package(name)) is not None:
            raise UserError(missing)
    return names


def lacks_package(name: str) -> str | None:
    """What has to be installed for a tracker, as a sentence; None where it is there."""
    spec = find_spec(name)
    if spec is not None and spec.origin is not None:  # a folder `wandb` of runs is no package
        return None
    package = PACKAGES.get(name, f"'rankdistill[{name}]'")
    return f"report_to={name} needs a package: pip install {package}."


@contextmanager
def tracked(folder: Path, stage: str) -> Iterator[None]:
    """Trackers write of one stage: event files into the run folder, others under its name.

    What the person sets by the same variables wins. A run of Weights & Biases ends with the stage,
    or the next one would go on in it.
    """
    given = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / stage),
        "WANDB_PROJECT": "rankdistill",
        "WANDB_NAME": f"{folder.name}, {stage}",
        "MLFLOW_EXPERIMENT_NAME": "rankdistill",
    }
    ours = {name: value for name, value in given.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()
