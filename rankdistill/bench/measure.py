"""Taking turns in one process, and what a turn costs: CPU seconds, wall seconds, peak memory."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.console import progress

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Turn:
    """What one call took."""

    cpu: float
    """CPU seconds of the process, all threads: other programs disturb it least."""
    wall: float
    """Seconds on the clock."""
    peak_mb: float | None
    """Largest resident memory during the call, above what was there before (weights and gradients
    are), MiB; None where the system does not tell (only Linux does)."""


def median(turns: Sequence[Turn], name: str) -> float | None:
    """The median of a field over turns; None where a turn has none."""
    values = [getattr(turn, name) for turn in turns]
    return None if None in values else statistics.median(values)


def take_turns(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    before: Callable[[], Any] = lambda: None,
    after: Callable[[str, Any], Any] = lambda name, result: None,
) -> dict[str, list[Turn]]:
    """Calls every way once per round, in turns A B, B A, A B, ..: what drifts, hits all alike.

    Args:
        ways: By name; the order is that of the first round.
        rounds: At least 1.
        before: Called before each call, not measured.
        after: Called with name and result after each call, not measured.

    Returns:
        The turns of each way, one per round.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    gc.collect()
    gc.freeze()  # what is there stays: collecting garbage need not look at it before every turn
    try:
        with progress(rounds * len(ways), "runs") as bar:
            for name in order(list(ways), rounds):
                before()
                turn, result = measured(ways[name])
                turns[name].append(turn)
                after(name, result)
                bar.advance(note=name)
    finally:
        gc.unfreeze()
    return turns


def order(names: Sequence[str], rounds: int) -> list[str]:
    """Every name once per round, every second round backwards."""
    there_and_back = (list(names), list(reversed(names)))
    return [name for number in range(rounds) for name in there_and_back[number % 2]]


def measured(way: Callable[[], Any]) -> tuple[Turn, Any]:
    """One call: what it took, and what it returned."""
    there = _forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = way()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = None if there is None else _status("VmHWM") - there
    return Turn(cpu, wall, peak), result


def free_mb() -> float | None:
    """Memory that programs can still take, MiB; None where the system does not tell."""
    memory = Path("/proc/meminfo")
    return _field(memory, "MemAvailable") if memory.is_file() else None


def _forget_peak() -> float | None:
    """Lets the peak start anew; returns the resident memory, MiB, or None where there is none."""
    gc.collect()
    try:
        # Freed memory that the allocator keeps would hide what the call takes of it.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        (_PROC / "clear_refs").write_text("5")  # 5: the peak becomes what is resident now
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> float:
    return _field(_PROC / "status", name)


def _field(file: Path, name: str) -> float:
    """A field of a file of lines `Name:   123 kB`, MiB."""
    lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
