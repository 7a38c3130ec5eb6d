"""A command that is refused leaves no run folder behind, and a finished run's as it was."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from hydra.experimental.callback import Callback

from rankdistill.distributed import rank, say_mistake
from rankdistill.store.files import write_atomically
from rankdistill.store.inputs import stamp_of
from rankdistill.store.locks import is_held
from rankdistill.store.written import LOCK, METRICS

_HYDRAS = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
"""What Hydra writes before the run can be checked."""


class NewFolder(Callback):
    """Hydra's callback of a single run, whose folder Hydra makes before the run can be checked."""

    made: Path | None = None
    """What this command made; None where it was there."""
    above: Sequence[Path] = ()
    """The folders above it that were not there either, the nearest first."""
    finished: Path | None = None
    """The folder, where a run has finished in it before ..."""
    figures: object = None
    """... with these figures ..."""
    commanded: Mapping[str, bytes] = {}
    """... by the command that Hydra wrote into these files."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Before Hydra makes it."""
        folder = Path(config.hydra.run.dir).absolute()
        NewFolder.made = None if folder.exists() else folder
        NewFolder.above = [parent for parent in folder.parents if not parent.exists()]
        _refuse_pipes(folder, f"{config.hydra.job.name}.log")
        NewFolder.finished = folder if (folder / METRICS).is_file() else None
        if NewFolder.finished:
            NewFolder.figures = stamp_of(folder / METRICS)
            there = [name for name in _HYDRAS if (folder / name).is_file()]
            NewFolder.commanded = {name: (folder / name).read_bytes() for name in there}

    @classmethod
    def keep_finished(cls) -> None:
        """Puts back what Hydra wrote over where this command did not come to figures of its own:
        those in the folder are what the command there came to."""
        folder, cls.finished = cls.finished, None
        if folder is None or rank() > 0:
            return
        with suppress(OSError):
            if stamp_of(folder / METRICS) == cls.figures:
                for name, data in cls.commanded.items():
                    write_atomically(folder / name, data)

    @classmethod
    def remove_unused(cls) -> None:
        """Removes it, and what was made above it, where it holds nothing but what Hydra wrote, the
        refusal's log, and a lock that no other run holds by now."""
        folder = cls.made
        if folder is None or not folder.is_dir():
            return
        ours = (".hydra", LOCK)
        unused = all(e.name in ours or e.suffix == ".log" for e in folder.iterdir())
        if unused and not is_held(folder / LOCK):
            _end_logs(folder)
            rmtree(folder)
            with suppress(OSError):  # another run is in it by now
                for parent in cls.above:
                    parent.rmdir()


def _refuse_pipes(folder: Path, log: str) -> None:
    """A pipe that is written to waits for a reader; a folder cannot be written to."""
    for file in (folder / name for name in (*_HYDRAS, log)):
        if file.exists() and not (file.is_file() or file.is_char_device()):
            say_mistake(
                f"{file}, which a run writes to, is no file: move it away, or give another run "
                "folder with hydra.run.dir=..."
            )
            sys.exit(2)  # Hydra makes a warning of any other exception


def _end_logs(folder: Path) -> None:
    """The run's log is opened at its first line, which would fail from now on."""
    logger = logging.getLogger("rankdistill.run")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            logger.removeHandler(handler)
            handler.close()
