"""A training that is asked to stop ends its step and saves a checkpoint, whatever `save_steps`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankdistill.console import is_main_process
from rankdistill.shell import ENDING
from rankdistill.trainer.progress import show_progress
from rankdistill.trainer.steps import anyone

PATIENCE_S = 1.0
"""Seconds for which nobody has to be told what is waited for."""


@contextmanager
def saves_when_stopped(trainer: Trainer) -> Iterator[None]:
    """In the block, the first signal of `ENDING` ends a training after its step's checkpoint.

    The signal then does what it would have done at once, and so does a second one. Of several
    processes, all stop at the same step where one is asked to. A signal that is ignored, or that
    ends a process unasked, is left alone; so are threads, which get none.
    """
    stop = _Stop(trainer)
    trainer.add_callback(stop)
    before = {}
    try:
        for number in ENDING:
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, stop.ask)
    except ValueError:  # a thread that is not the main one has no say in it
        pass
    stop.before = before
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def attended(trainer: Trainer) -> Iterator[None]:
    """In the block, a training shows its progress, and stops as `saves_when_stopped` has it."""
    show_progress(trainer)
    with saves_when_stopped(trainer):
        yield


class _Stop(TrainerCallback):
    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._owner = trainer, os.getpid()
        self._asked: int | None = None
        self._saves = False
        self._patience = threading.Timer(PATIENCE_S, _say)
        self._patience.daemon = True
        self.before: dict[int, Any] = {}

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        if self._asked is not None or os.getpid() != self._owner:
            self.before[number](number, frame)
            return
        self._asked = number
        if is_main_process():
            self._patience.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saves = anyone(self._trainer, self._asked is not None)
        control.should_save |= self._saves

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._saves:
            self._patience.cancel()
            # A launcher ends all processes when one ends, and one of them may still be writing.
            self._trainer.accelerator.wait_for_everyone()
            number = self._asked or signal.SIGTERM
            self.before.get(number, signal.default_int_handler)(number, None)


def _say() -> None:
    print("\nStops when this step is saved; once more stops at once.", file=sys.stderr, flush=True)
