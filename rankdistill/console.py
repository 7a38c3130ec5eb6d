"""What a person sees while a run goes on: headings, bars with rate and time left, no noise."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap

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

from rankdistill.distributed import rank

console = Console(highlight=False)

_run_log = logging.getLogger("rankdistill.run")

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
TELLING_SECONDS = 1.0
"""What comes within it comes from one batch, and has no pace."""
SILENT_SECONDS = 60.0
"""After it the pace of any share is told: iterations that take minutes are few."""


def quiet() -> None:
    """Silence the libraries' own bars, warnings and advice; errors still show."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore")
    # A library whose line finds its stream closed, as one does that stops an engine, would print a
    # traceback between ours.
    logging.raiseExceptions = False
    libraries = "transformers datasets accelerate trl torch huggingface_hub httpx httpx2"
    for name in libraries.split():
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def is_main_process() -> bool:
    """Whether this process is the one that talks (rank 0)."""
    return rank() == 0


def label_lines(label: str) -> None:
    """Have every line begin with `label`, since other processes write to the same terminal."""
    global _label
    _label = label


def say(message: str) -> None:
    """One line for the person, in the run's log too; rank 0 only."""
    if is_main_process():
        console.print(f"[dim]{_label}[/]{message}" if _label else message, soft_wrap=True)
        log(Text.from_markup(message).plain.strip())


def log(line: str) -> None:
    """A line for the run's log alone (`conf/config.yaml` says where that is); rank 0 only."""
    if line and is_main_process():
        _run_log.info(line)


def begin(parts: Sequence[str]) -> None:
    """A run of these parts begins: names of stages, in their order, which headings are counted by.

    Stages between them, such as the samples of an evaluation, belong to the part that they are in.
    """
    global _outline
    _outline = _Outline(list(parts))


def part(name: str | None) -> None:
    """Have the stages from here on belong to a part; "": to the one that they are in; None: again
    to the part of their name."""
    _outline.enter(name)


def heading(stage: str, what: str) -> None:
    """The heading of a stage that is worked on now."""
    global _stage
    _stage = stage
    while _bars:  # of a stage that failed
        _bars[-1].close()
    _say_reused()
    number = _outline.number(stage)
    name = _outline.name or stage if number.strip() else stage
    told = what if name == stage else f"{stage}: {what}"
    _say_indented(f"[dim]{number}[/][bold cyan]{name:<9}[/] ", told, "")


def reused(stage: str, what: str, key: str) -> None:
    """A stage whose output was there; several in a row are one line on the terminal."""
    number = _outline.number(stage)
    _outline.reused.append((number.strip(), stage))
    log(f"{number}{stage} reused, {key}: {what}")


def result(what: str) -> None:
    """What a stage ended with, or how far it is, below its heading."""
    _say_indented(" " * (_outline.width + 10), what, "dim")


def finish() -> None:
    """The last stage is over."""
    _say_reused()


def clock(seconds: float) -> str:
    """``54 s``, ``3 min 40 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class _Outline:
    """Where in its parts a run is."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts
        self.at = 0
        """Parts that have begun."""
        self.reused: list[tuple[str, str]] = []
        """Number and stage of each since the last one that was worked on."""
        self._held = self._shown = False

    @property
    def name(self) -> str:
        """Of the part that has begun."""
        return self.parts[self.at - 1] if self.at else ""

    @property
    def width(self) -> int:
        """Columns of a number."""
        return 2 * len(str(len(self.parts))) + 2 if self.parts else 0

    def enter(self, name: str | None) -> None:
        self._held = False
        if name is not None:
            self._advance(name)
            self._held = True

    def number(self, stage: str) -> str:
        """``3/8 `` of the first stage of a part, else as many blanks."""
        if not self._held:
            self._advance(stage)
        shown = f"{self.at}/{len(self.parts)} " if self.at and not self._shown else ""
        self._shown = True
        return f"{shown:>{self.width}}" if self.parts else ""

    def _advance(self, name: str) -> None:
        if name in self.parts[self.at :]:
            self.at += 1 + self.parts[self.at :].index(name)
            self._shown = False


_outline = _Outline([])


def _say_reused() -> None:
    reused, _outline.reused = _outline.reused, []
    if not reused:
        return
    names = list(dict.fromkeys(stage for _, stage in reused))
    several = f"{names[0]} to {names[-1]}" if len(names) > 3 else ", ".join(names)
    numbers = [number.partition("/")[0] for number, _ in reused if number]
    span = "-".join(dict.fromkeys((numbers[0], numbers[-1]))) if numbers else ""
    lead = f"{span:>{_outline.width - 1}} " if span else " " * _outline.width
    _say_indented(f"[dim]{lead}[/][bold cyan]{'reused':<9}[/] ", f"{several}", "")


def _say_indented(head: str, what: str, style: str) -> None:
    """A line whose continuation on a terminal stands below its text, broken between words."""
    if not is_main_process():
        return
    log(f"{Text.from_markup(head).plain}{what}".strip() if head.strip() else f"  {what}")
    lead = Text.from_markup(f"[dim]{_label}[/]{head}")
    if console.is_terminal:
        lines = wrap(what, max(20, console.width - lead.cell_len)) or [""]
    else:
        lines = [what]
    body = Text(f"\n{' ' * lead.cell_len}".join(lines), style=style)
    console.print(lead + body, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_pace(speed, task.fields["unit"]) if speed else "", style="dim")


def _pace(rate: float, unit: str) -> str:
    """`3.2 prompts/s`, or `8.1 s per step`."""
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s per {unit.removesuffix('s')}"


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
        self._started: float | None
        """When the first unit was done, from which the pace is measured."""
        self._from, self._started, self._printed = done, None, time.monotonic()
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
        now = time.monotonic()
        measured = self.done - self._from
        if self._started is None:  # starting an engine, or compiling, tells nothing of the pace
            self._from, self._started = self.done, now
        elif (
            self._live is None
            and now - self._printed > PLAIN_SECONDS
            and (pace_s := now - self._started) > TELLING_SECONDS
            and (measured >= TELLING_SHARE * (self.total - self._from) or pace_s > SILENT_SECONDS)
        ):
            self._printed = now
            rate = measured / pace_s
            left = clock((self.total - self.done) / rate)
            told = [f"{self.done}/{self.total} {self.unit}", _pace(rate, self.unit), f"{left} left"]
            result(", ".join([*told, note] if note else told))

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
