"""What is seen of a training: its bar, its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
)

from rankdistill.console import Bar
from rankdistill.models.device import device


def show_progress(trainer: Trainer) -> None:
    """Give a Trainer that was made with `disable_tqdm=True` the bar instead of printed logs."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressBar())


class ProgressBar(TrainerCallback):
    """Shows the steps of a Trainer; takes the place of its own bar (`disable_tqdm=True`)."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._loss = ""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._bar = Bar(state.max_steps, "steps", done=state.global_step)

    def on_log(self, args, state, control, **kwargs) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is not None:
            self._loss = f"loss {float(loss):.4f}"

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self._bar is not None:
            self._bar.advance(1, self._loss)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self._bar is not None:
            self._bar.close()


INTERVAL_S = 0.2
"""Between two looks at the resident memory; a training step takes longer."""
MIB = 2**20


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """The largest memory in the block, in the dict that it yields, when the block ends.

    `peak_mib`: resident memory of this process and its children (a sampler's engine among them),
    weights included, MiB. Not there without a GPU: `peak_gpu_mib`, what PyTorch held on this
    process's, and `peak_card_mib`, what all processes did, an engine among them.
    """
    peaks: dict[str, int] = {}
    ended = threading.Event()
    card = device() if torch.cuda.is_available() else None

    def look() -> None:
        seen = {"peak_mib": _resident(), **({} if card is None else {"peak_card_mib": _used(card)})}
        peaks.update({name: max(peaks.get(name, 0), value) for name, value in seen.items()})

    def watch() -> None:
        while not ended.wait(INTERVAL_S):
            look()

    if card is not None:
        torch.cuda.reset_peak_memory_stats(card)
    look()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()
        look()
        if card is not None:
            peaks["peak_gpu_mib"] = torch.cuda.max_memory_allocated(card) // MIB


def _used(card: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(card)
    return (total - free) // MIB


def _resident() -> int:
    total = 0
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has ended since
    return total // MIB
