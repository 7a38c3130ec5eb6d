"""A command that is refused leaves no run folder behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from hydra.experimental.callback import Callback

from rankdistill.store.locks import is_held
from rankdistill.store.written import LOCK


class NewFolder(Callback):
    """Hydra's callback of a single run, whose folder Hydra makes before the run can be checked."""

    made: Path | None = None
    """What this command made; None where it was there."""
    above: Sequence[Path] = ()
    """The folders above it that were not there either, the nearest first."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Before Hydra makes it."""
        folder = Path(config.hydra.run.dir).absolute()
        NewFolder.made = None if folder.exists() else folder
        NewFolder.above = [parent for parent in folder.parents if not parent.exists()]

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


def _end_logs(folder: Path) -> None:
    """The run's log is opened at its first line, which would fail from now on."""
    logger = logging.getLogger("rankdistill.run")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            logger.removeHandler(handler)
            handler.close()
