"""What Hydra calls once per run, in this process or in a launcher's worker."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from rankdistill.distributed import say_mistake
from rankdistill.errors import FAILURE, UserError
from rankdistill.store.faults import writable

ANOTHER_FOLDER = "make it writable or make space, or give another run folder with hydra.run.dir=..."


class Job:
    """Runs one composed configuration; a person's mistake is one sentence on standard error."""

    def __init__(self) -> None:
        self.begun = self.failed = False

    def __call__(self, config: Any) -> float | None:
        """The validation figure, where a sweeper asks for one."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from rankdistill.console import label_lines

        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        self.begun = True
        if hydra.mode is RunMode.MULTIRUN:
            if hydra.runtime.choices["hydra/launcher"] != "basic":  # points run side by side
                label_lines(f"#{hydra.job.num} ")
            return _point(config, folder, verbose=bool(hydra.verbose))
        try:
            return _run(config, folder)
        except UserError as error:
            if hydra.verbose:
                raise
            self.failed = True
            say_mistake(str(error))
            return None

    def __reduce__(self) -> Any:
        """A launcher's worker has none of what the command line registered."""
        return _in_worker, ()


def _in_worker() -> Job:
    from rankdistill.app.hydra_setup import register

    register()
    return Job()


def _run(config: Any, folder: Path) -> float | None:
    from rankdistill.stages.pipeline import run

    with writable(folder, ANOTHER_FOLDER):
        return run(config)


def _point(config: Any, folder: Path, *, verbose: bool) -> float | None:
    """A point of a sweep: whatever it fails by is told and written down, and others run on."""
    from rankdistill.console import is_main_process

    try:
        figure = _run(config, folder)
    except Exception as error:
        if verbose or not isinstance(error, UserError):
            traceback.print_exc()
        say_mistake(sentence(error))
        if is_main_process():
            (folder / FAILURE).write_text(sentence(error) + "\n", encoding="utf-8")
        return None
    if is_main_process():
        (folder / FAILURE).unlink(missing_ok=True)
    return figure


def sentence(error: Exception) -> str:
    """What a failure is called in one line."""
    said = next(iter(str(error).splitlines()), "")
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
