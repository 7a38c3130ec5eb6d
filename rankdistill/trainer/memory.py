"""How much memory a training takes: what PPO's four models cost beside the one of a ranking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

INTERVAL_S = 0.2
"""Between two looks at the resident memory; a training step takes longer."""
MIB = 2**20


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """The largest memory in the block, in the dict that it yields, when the block ends.

    `peak_mib`: resident memory of this process and its children (a sampler's engine among them),
    weights included, MiB. `peak_gpu_mib`: what PyTorch held on this process's GPU; not there
    without one.
    """
    found: dict[str, int] = {"peak_mib": _resident()}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(INTERVAL_S):
            found["peak_mib"] = max(found["peak_mib"], _resident())

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found["peak_mib"] = max(found["peak_mib"], _resident())
        if torch.cuda.is_available():
            found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() // MIB


def _resident() -> int:
    total = 0
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has ended since
    return total // MIB
