"""Taking turns in one process, what a turn costs (CPU seconds, wall seconds, peak memory), and the
rows of the benchmarks: as a table for a person, and as JSON.

Where models run on an accelerator, a turn ends when that has finished, and the memory is its own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from rankdistill.console import progress
from rankdistill.parallel import cores
from rankdistill.store.faults import put

_PROC = Path("/proc/self")
MIB = 2**20


@dataclass(frozen=True)
class Turn:
    """What one call took."""

    cpu: float
    """CPU seconds of the process, all threads: other programs disturb it least."""
    wall: float
    """Seconds on the clock."""
    peak_mb: float | None
    """Largest resident memory during the call, above what was there before (weights and gradients
    are), MiB; None where the system does not tell (only Linux does). On an accelerator that of
    tensors there."""


def write(file: Path, report: Any) -> None:
    """Writes what `--json` asks for. UserError: it cannot be written."""
    data = json.dumps(report, indent=2) + "\n"
    put(file, data.encode(), "make its folder writable or make space, or give another --json")


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
    kept = gc.get_freeze_count()
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
        if not kept:
            gc.unfreeze()
    return turns


def order(names: Sequence[str], rounds: int) -> list[str]:
    """Every name once per round, every second round backwards."""
    there_and_back = (list(names), list(reversed(names)))
    return [name for number in range(rounds) for name in there_and_back[number % 2]]


def measured(way: Callable[[], Any]) -> tuple[Turn, Any]:
    """One call: what it took, and what it returned."""
    chip = accelerator()
    there = _forget_peak() if chip is None else _forget_peak_of(chip)
    wall, cpu = time.perf_counter(), time.process_time()
    result = way()
    if chip is not None:
        chip.synchronize()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Turn(cpu, wall, None if there is None else _peak(chip) - there), result


def accelerator() -> Any:
    """torch's module of the accelerator that models are on; None on a CPU."""
    import torch

    from rankdistill.models import device

    found = device()
    return None if found.type == "cpu" else torch.get_device_module(found)


def clock() -> str:
    """The field of a `Turn` that ways are compared by: of an accelerator the CPU knows nothing."""
    return "cpu" if accelerator() is None else "wall"


def _peak(chip: Any) -> float:
    return _status("VmHWM") if chip is None else chip.max_memory_allocated() / MIB


def _forget_peak_of(chip: Any) -> float | None:
    """As `_forget_peak`, of what is allocated on an accelerator."""
    gc.collect()
    chip.synchronize()
    if not hasattr(chip, "reset_peak_memory_stats"):  # Apple's tells no peak
        return None
    chip.reset_peak_memory_stats()
    return chip.memory_allocated() / MIB


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


class Unequal(Exception):
    """Two ways that are compared do not compute the same; one sentence."""


@dataclass(frozen=True)
class ResultRow:
    """One other way against ours, at one point."""

    benchmark: str
    what: str
    """What is computed."""
    point: str
    """At which sizes."""
    theirs: str
    """The other way."""
    ours: str
    """Our way."""
    their_turns: Sequence[Turn]
    our_turns: Sequence[Turn]
    limit: float | None = None
    """The ratio of their FLOPs and ours; None where they are not what is saved."""
    tokens: int | None = None
    """Response tokens that each way writes, where it writes any."""
    differences: dict[str, float] | None = None
    """How far the results were apart, largest of all turns; they were within the tolerance."""

    @property
    def ratio(self) -> float:
        """Their seconds by ours, see `clock`."""
        return self._ratio(clock())

    def as_json(self) -> dict[str, Any]:
        """The row with its medians and ratios, for `json.dumps`."""
        return {
            **asdict(self),
            "rounds": len(self.our_turns),
            "theirs_median": self._medians(self.their_turns),
            "ours_median": self._medians(self.our_turns),
            "cpu_ratio": self._ratio("cpu"),
            "wall_ratio": self._ratio("wall"),
            "peak_ratio": self._peak_ratio(),
            "share_of_limit": None if self.limit is None else self.ratio / self.limit,
        }

    def _ratio(self, name: str) -> float:
        theirs, ours = median(self.their_turns, name), median(self.our_turns, name)
        assert theirs is not None and ours is not None
        return theirs / ours

    def _peak_ratio(self) -> float | None:
        theirs, ours = median(self.their_turns, "peak_mb"), median(self.our_turns, "peak_mb")
        return theirs / ours if theirs is not None and ours else None

    def _medians(self, turns: Sequence[Turn]) -> dict[str, float | None]:
        medians = {name: median(turns, name) for name in ("cpu", "wall", "peak_mb")}
        if self.tokens is not None:
            wall = medians["wall"]
            medians["tokens_per_second"] = self.tokens / wall if wall else None
        return medians


def table(rows: Sequence[ResultRow]) -> Table:
    """Medians over the rounds; each cell of two is theirs, then ours."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("theirs against ours")
    for name in ("CPU s", "wall s", "peak MB"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in ("CPU ratio", "wall ratio", "FLOP limit", "of limit"):
        grid.add_column(name, justify="right")
    marks = {name: "[bold]" if name == clock() else "" for name in ("cpu", "wall")}
    for row in rows:
        whole = row.as_json()
        theirs, ours = whole["theirs_median"], whole["ours_median"]
        grid.add_row(
            f"{row.what}, {row.point}\n[dim]{row.theirs} / {row.ours}[/]",
            *(_both(theirs[name], ours[name], 2) for name in ("cpu", "wall")),
            _both(theirs["peak_mb"], ours["peak_mb"], 0),
            *(f"{mark}{whole[f'{name}_ratio']:.2f}x" for name, mark in marks.items()),
            "" if row.limit is None else f"{row.limit:.2f}x",
            "" if row.limit is None else f"{row.ratio / row.limit:.0%}",
        )
    return grid


def remarks(rows: Sequence[ResultRow]) -> list[str]:
    """What a reader of the table has to know; rates of what writes tokens."""
    lines = [
        f"{row.what}: {_rate(row, row.their_turns)} tokens/s with {row.theirs}, "
        f"{_rate(row, row.our_turns)} with {row.ours}."
        for row in rows
        if row.tokens is not None
    ]
    how = (
        "Medians of runs that took turns in one process and had equal results, peak memory above "
        "weights and gradients, the limit from the FLOPs that each way has to compute"
    )
    if clock() == "cpu" and any("TRL" in row.theirs for row in rows):
        how += (
            "; part of TRL's gap is specific to CPUs, where alone its output layer goes over the "
            "prompt too and costs more than plain logits"
        )
    return [*lines, f"{how}."]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch
    import transformers

    return {
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": metadata.version("trl") if find_spec("trl") else "not installed",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{facts['cores']} cores ({facts['cpu']}), {facts['threads']} threads, float32, torch "
        f"{facts['torch']}, transformers {facts['transformers']}, trl {facts['trl']}"
        + (f", {facts['gpu']}" if facts["gpu"] else "")
    )


def _both(theirs: float | None, ours: float | None, digits: int) -> str:
    if theirs is None or ours is None:
        return ""
    return f"{theirs:,.{digits}f} / {ours:,.{digits}f}"


def _rate(row: ResultRow, turns: Sequence[Turn]) -> str:
    wall = median(turns, "wall")
    assert wall is not None and row.tokens is not None
    return f"{row.tokens / wall:.1f}"
