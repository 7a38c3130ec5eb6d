"""The comparison at the end of a multirun.

A callback of Hydra and not a step after `hydra.main`: Hydra calls it in the process that started
the sweep, whichever launcher ran the points. With joblib, Ray or submitit they run in other
processes, which could not tell this one where their folders are; the callback gets the composed
configuration, which says where the sweep's folder is. It works for a sweeper as well, since it
reads folders and not a list of points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

FOLDER = "comparison"
"""In the sweep's folder."""


class CompareRuns(Callback):
    """Writes the comparison of a sweep's points into its folder and prints who won."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Hydra takes an exception for a warning, so what is wrong is said here."""
        from rich.markup import escape

        from rankdistill.compare import compare_and_tell
        from rankdistill.console import is_main_process, say
        from rankdistill.errors import UserError

        if not is_main_process():
            return
        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            page, told = compare_and_tell([folder], folder / FOLDER)
        except UserError as error:
            say(f"\nNo comparison: {error}")
            return
        say(f"\n[bold]{escape(told)}[/]")
        say(f"[bold]comparison[/]  {page}")
