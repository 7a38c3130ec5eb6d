"""`python -m rankdistill`: the command line, and what Hydra calls."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from rankdistill import shell
from rankdistill.app import command_line
from rankdistill.distributed import say_mistake
from rankdistill.errors import FAILURE, UserError
from rankdistill.fields import refuse_credentials
from rankdistill.store.faults import ANOTHER_FOLDER, writable
from rankdistill.store.files import write_atomically


def _enter(entry: Callable[[], object]) -> None:
    """Composes and runs.

    Hydra composes a sweep's own configuration without the groups that it sweeps over, so a key that
    only their options have (`-m recipe=zephyr,zephyr_rrhf warmup.conversations=FILE`) is unknown
    there. As a choice of one it is left to the points, each of which is checked before the first.
    """
    from hydra.errors import HydraException

    from rankdistill.app.config_errors import key_below_null, unknown_override

    while True:
        try:
            entry()
            return
        except (HydraException, AssertionError) as error:
            key = unknown_override(error) or key_below_null(error, sys.argv)
            if "--multirun" not in sys.argv or not _left_to_points(f"{key}="):
                raise


def _left_to_points(key: str) -> bool:
    """Makes values that the command line gives a key choices of one; whether there were any."""
    any_changed = False
    for place, argument in enumerate(sys.argv):
        value = argument.removeprefix(key)
        if value != argument and not value.startswith("choice("):
            sys.argv[place], any_changed = f"{key}choice({value})", True
    return any_changed


Planned = Callable[[Any], str]


@shell.interrupts_as_before()
def main() -> None:
    """`command` for a program that goes on after its SystemExit, with its signal handlers."""
    command()


def command(planned: Planned | None = None) -> None:
    """The command line of a process that ends with it: a second Ctrl-C is deadly.

    Args:
        planned: Says of a run's settings how long it may take.
    """
    typed = shlex.join(["python", "-m", "rankdistill", *sys.argv[1:]])
    with shell.quiet_pipe(), shell.terminable():
        try:
            try:
                _asked_for(planned)
            except KeyboardInterrupt as stop:
                _end(stop, typed)
        except KeyboardInterrupt as stop:  # a second one, before the first is answered
            _end(stop, typed)


def _asked_for(planned: Planned | None) -> None:
    try:
        for argument in sys.argv[1:]:  # which Hydra writes down
            refuse_credentials(argument.partition("=")[0], argument)
        arguments = command_line.ordered(sys.argv[1:])
        if not _listed(arguments):
            command_line.refuse_no_recipe(arguments)
            sys.argv[1:] = arguments
            _compose_and_run(arguments, planned)
    except UserError as error:
        say_mistake(str(error))
        sys.exit(2)


def _end(stop: KeyboardInterrupt, typed: str) -> NoReturn:
    with shell.no_more_interrupts():
        say_stopped(typed)
    sys.exit(stop.code if isinstance(stop, shell.Terminated) else shell.INTERRUPTED)


def say_stopped(command: str) -> None:
    """Two lines for whoever ended the work: where it stands, and how it goes on."""
    from rankdistill.console import is_main_process, stopped

    if is_main_process():
        said = f"Stopped {stopped()}. The same command continues from what is saved:\n  {command}"
        with suppress(OSError):  # the terminal is gone, which may be what it was stopped by
            print(said, file=sys.stderr, flush=True)


def _listed(arguments: list[str]) -> bool:
    """Prints what is asked for without Hydra; whether anything was."""
    from rankdistill.app import start_page

    text = start_page.asked_for(arguments)
    if text is not None:
        print(text)
    return text is not None


def _compose_and_run(arguments: list[str], planned: Planned | None) -> None:
    from rankdistill.app.hydra_setup import own_code, register

    register()
    for folder in command_line.config_folders(arguments):
        own_code(folder)
    while not _attempt(arguments, planned):
        pass


def _attempt(arguments: list[str], planned: Planned | None) -> bool:
    """Whether it came to its end: not where a group had to be opened, see `open_replaced`."""
    # Hydra then raises instead of printing a traceback of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rankdistill.app.config_errors import composition_errors, explain
    from rankdistill.app.hydra_setup import open_replaced
    from rankdistill.app.run_folder import NewFolder
    from rankdistill.app.sweep import Sweep

    job, Sweep.current = Job(planned), None
    NewFolder.made = NewFolder.finished = None
    entry = hydra.main(
        config_path="pkg://rankdistill.conf", config_name="config", version_base="1.3"
    )(job)
    try:
        _enter(entry)
    except composition_errors() as error:
        if not job.begun and open_replaced(error, arguments):
            return False
        hydras = isinstance(error, HydraException | OmegaConfBaseException)
        if "hydra.verbose=true" in arguments or (job.begun and not hydras):
            raise
        say_mistake(explain(error, arguments))
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Hydra makes the run folder before it calls the job.
        if job.begun or "hydra.verbose=true" in arguments:
            raise
        if error.errno is None:  # OmegaConf's, of a file that holds no keys
            say_mistake(explain(error, arguments))
            sys.exit(2)
        say_mistake(f"The run folder cannot be made ({error}): {ANOTHER_FOLDER}.")
        sys.exit(2)
    finally:
        NewFolder.keep_finished()
        swept = Sweep.current is None or Sweep.current.finish()
    if job.failed:
        NewFolder.remove_unused()
    if job.failed or not swept:
        sys.exit(2)
    return True


class Job:
    """Runs one composed configuration; a person's mistake is one sentence on standard error."""

    def __init__(self, planned: Planned | None = None) -> None:
        self.begun = self.failed = False
        self._planned = planned

    def __call__(self, config: Any) -> float | None:
        """The validation figure, where a sweeper asks for one."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf.errors import OmegaConfBaseException

        from rankdistill.app.config_errors import explain
        from rankdistill.console import label_lines

        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        self.begun = True
        if hydra.mode is RunMode.MULTIRUN:
            if hydra.runtime.choices["hydra/launcher"] != "basic":  # points run side by side
                label_lines(f"#{hydra.job.num} ")
            return _point(config, folder, verbose=bool(hydra.verbose))
        try:
            return _run(config, folder, self._planned)
        except (UserError, OmegaConfBaseException) as error:
            if hydra.verbose:
                raise
            self.failed = True
            told = str(error) if isinstance(error, UserError) else explain(error, sys.argv[1:])
            say_mistake(told)
            return None

    def __reduce__(self) -> Any:
        """A launcher's worker has none of what the command line registered."""
        from rankdistill.app.hydra_setup import opened

        return _in_worker, (opened(),)


def _in_worker(groups: Collection[str]) -> Job:
    from rankdistill.app.hydra_setup import register

    register(groups)
    return Job()


def _run(config: Any, folder: Path, planned: Planned | None = None) -> float | None:
    with shell.importing():
        from rankdistill.stages.pipeline import run

    try:
        with shell.interruptions_kept(), writable(folder, ANOTHER_FOLDER):
            return run(config, planned=planned)
    except SystemExit as error:  # which would end the command as if all were well
        raise UserError(
            "The run was ended by code that it calls, such as a class or a rule of your own "
            f"(SystemExit: {error.code}): let that raise an error, or return."
        ) from error


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
            with suppress(OSError):  # a full disk may be what it fails by: the others run on
                write_atomically(folder / FAILURE, f"{sentence(error)}\n".encode())
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
