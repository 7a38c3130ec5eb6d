"""What a person sees while a run goes on: headings, bars with rate and time left, no noise."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(highlight=False)

_label = ""
"""What every line begins with."""

_stage = ""
"""The stage whose heading was printed last."""

_bars: list[Bar] = []
"""Those that are not closed, the innermost last."""

PLAIN_SECONDS = 15.0
"""Without a terminal a bar is a line that is printed at most this often."""

TELLING_SHARE = 0.05
"""Share of the work after which its pace tells how long the rest takes."""


def quiet() -> None:
    """Silence the libraries' own bars, warnings and advice; errors still show."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore")
    libraries = "transformers datasets accelerate trl torch huggingface_hub httpx"
    for name in libraries.split():
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def is_main_process() -> bool:
    """Whether this process is the one that talks (rank 0)."""
    return os.environ.get("RANK", "0") == "0"


def label_lines(label: str) -> None:
    """Have every line begin with `label`, since other processes write to the same terminal."""
    global _label
    _label = label


def say(message: str) -> None:
    """One line for the person; rank 0 only."""
    if is_main_process():
        console.print(f"[dim]{_label}[/]{message}" if _label else message, soft_wrap=True)


def heading(stage: str, what: str) -> None:
    """The heading of a stage."""
    global _stage
    _stage = stage
    while _bars:  # of a stage that failed
        _bars[-1].close()
    say(f"[bold cyan]{stage:<9}[/] {what}")


def result(what: str) -> None:
    """What a stage ended with, below its heading."""
    say(f"          [dim]{what}[/]")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_pace(speed, task.fields["unit"]) if speed else "", style="dim")


def _pace(rate: float, unit: str) -> str:
    """`3.2 prompts/s`, or `8.1 s per step`."""
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s a {unit.removesuffix('s')}"


def stopped() -> str:
    """Where the work stands, for whoever ends it: ``in train at step 54 of 3000``. Removes bars."""
    if not _stage:
        return "before the first stage"
    bar = _bars[-1] if _bars else None
    while _bars:
        _bars[-1].close()
    unit = bar.unit.removesuffix("s") if bar else ""
    return f"in {_stage}" + (f" at {unit} {bar.done} of {bar.total}" if bar else "")


class Bar:
    """A progress bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._from, self._started, self._printed = done, time.monotonic(), time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal and is_main_process() and not _label:
            columns = (
                TextColumn("         "), BarColumn(30), MofNCompleteColumn(), _Rate(),
                TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[note]}"),
            )  # fmt: skip
            self._live = Progress(*columns, console=console, transient=True)
            self._task = self._live.add_task("", total=total, completed=done, unit=unit, note="")
            self._live.start()
        _bars.append(self)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units are done; `note` is shown beside the bar."""
        self.done += amount
        if self._live is not None:
            self._live.update(self._task, advance=amount, note=note)
        elif (
            time.monotonic() - self._printed > PLAIN_SECONDS
            and self.done - self._from >= TELLING_SHARE * (self.total - self._from)
        ):
            self._printed = time.monotonic()
            rate = (self.done - self._from) / (self._printed - self._started)
            pace, left = _pace(rate, self.unit), (self.total - self.done) / rate
            result(
                f"{self.done}/{self.total} {self.unit}, {pace}, {left:.0f} s left {note}".rstrip()
            )

    def close(self) -> None:
        """The work is done."""
        if self in _bars:
            _bars.remove(self)
        self.hide()

    def hide(self) -> None:
        """Remove the bar from the terminal."""
        if self._live is not None:
            self._live.stop()


@contextmanager
def progress(total: int, unit: str, done: int = 0) -> Iterator[Bar]:
    """A bar for the time of a `with` block."""
    bar = Bar(total, unit, done)
    try:
        yield bar
    except BaseException:
        bar.hide()  # and `stopped` still tells how far it came
        raise
    bar.close()
