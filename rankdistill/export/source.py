"""What is exported or served: the model of a finished run, or a model folder from a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models.model import Loading
from rankdistill.report import read_metrics
from rankdistill.shell import check_run_folder
from rankdistill.stages.composed import read_config
from rankdistill.store.written import check_run

EXPORT = "export"
"""Folder of a run that its export is written to."""


@dataclass(frozen=True)
class Source:
    """A model with what is known of its origin."""

    folder: Path
    """What the person named."""
    model: Path
    """Folder with the weights, or with adapters alone."""
    metrics: Mapping[str, Any] | None = None
    """The run's `metrics.json`; None for a folder that no run has made."""
    config: Mapping[str, Any] | None = None
    """The run's configuration, composed."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run, also where no run has allowed it."""

    @property
    def name(self) -> str:
        """The folder's name as hosts, images and Kubernetes allow it."""
        clean = re.sub(r"[^a-z0-9]+", "-", self.folder.resolve().name.lower())
        return clean.strip("-")[:50].strip("-") or "student"

    def loading(self, precision: str) -> Loading:
        """How the model is loaded, in a precision: a run has said whether its own code may run."""
        student = (self.config or {}).get("student") or {}
        trusted = self.trust_remote_code or bool(student.get("trust_remote_code"))
        return Loading(precision, trust_remote_code=trusted, trust_key="--trust-remote-code")

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds adapters alone, as peft saves them."""
        return (self.model / "adapter_config.json").is_file()


def open_source(folder: Path, *, trust_remote_code: bool = False) -> Source:
    """A run's folder, or that of a model or of adapters that a trainer saved in a notebook.

    Args:
        trust_remote_code: See `Source`.

    Raises:
        UserError: no such folder, an unfinished run, another model than its figures are of, a run
            that left no student.
    """
    check_run_folder(folder)
    if _is_model(folder):
        return Source(folder, folder, trust_remote_code=trust_remote_code)
    check_run(folder, "model")
    if not _is_model(folder / "model"):
        why = "ended with its reward model" if (folder / "reward_model").is_dir() else "has lost it"
        raise UserError(
            f"There is no student in '{folder}', whose run {why}: give a run that trains one."
        )
    metrics, config = read_metrics(folder), read_config(folder, "student", "teacher", "objective")
    return Source(folder, folder / "model", metrics, config, trust_remote_code)


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
