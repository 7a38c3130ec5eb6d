"""A plan as a terminal shows it, and as a program reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from rankdistill.plan.machines import of_machines
from rankdistill.plan.memory import GIB, Memory
from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import PlannedStage, room
from rankdistill.report.stages import duration
from rankdistill.report.table import NOTHING
from rankdistill.store.words import size_text

WIDTH = 100
"""Columns that the table is made for."""

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "AdamW",
    "activations": "activations",
    "logits": "logits",
    "others": "other models",
    "cache": "keys and values",
    "process": "process",
}


def table(planner: Planner, found: Sequence[PlannedStage]) -> Table:
    """One row per stage, at most 100 columns wide."""
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    shown.add_column("stage")
    shown.add_column("what", ratio=1)
    for name in ("params", "memory", "tokens", "FLOPs", "time", "disk"):
        shown.add_column(name, justify="right", no_wrap=True)
    for stage in found:
        fits = stage.fits(planner.hardware)
        shown.add_row(
            Text(stage.name, style="bold" if fits else "bold red"),
            Text(stage.what),
            short(stage.parameters).replace("G", "B"),
            Text(gib(stage.memory.total), style="" if fits else "bold red"),
            short(stage.tokens),
            short(stage.flops),
            duration(stage.seconds, roughly=True),
            size(stage.disk),
        )
    total = [sum(getattr(s, name) for s in found) for name in ("flops", "seconds", "disk")]
    most = max(stage.memory.total for stage in found)
    shown.add_section()
    shown.add_row(
        "all",
        "",
        "",
        gib(most),
        "",
        short(total[0]),
        duration(total[1], roughly=True),
        size(total[2]),
    )
    return shown


def peak(found: Sequence[PlannedStage]) -> str:
    """What the stage with the largest memory holds."""
    stage = max(found, key=lambda stage: stage.memory.total)
    parts = ", ".join(
        f"{label} {gib(value)}"
        for name, label in PARTS.items()
        if (value := getattr(stage.memory, name)) > 0.005 * stage.memory.total
    )
    return f"Most memory: {stage.name}, of which {parts}."


def misfits(planner: Planner, found: Sequence[PlannedStage]) -> list[str]:
    """A line for every stage that does not fit, with what makes it fit."""
    hardware = planner.hardware
    return [
        f"{stage.name} does not fit: {gib(stage.memory.total)} of "
        f"{gib(room(hardware) * stage.share)} per device; {stage.remedy}"
        for stage in found
        if not stage.fits(hardware)
    ]


def as_json(planner: Planner, found: Sequence[PlannedStage], machine: str) -> dict[str, Any]:
    """The whole plan: bytes, FLOPs and seconds."""
    hardware = planner.hardware
    return {
        "hardware": {"name": machine, **asdict(hardware)},
        "room_bytes": room(hardware),
        "counts": asdict(planner.counts),
        "machines": asdict(of_machines(planner, found)),
        "stages": [_stage(stage, planner) for stage in found],
        "seconds": sum(stage.seconds for stage in found),
        "disk_bytes": sum(stage.disk for stage in found),
        "scratch_bytes": max(stage.scratch for stage in found),
        "fits": all(stage.fits(hardware) for stage in found),
    }


def _stage(stage: PlannedStage, planner: Planner) -> dict[str, Any]:
    memory: Memory = stage.memory
    return {
        "stage": stage.name,
        "what": stage.what,
        "parameters": stage.parameters,
        "trained_parameters": stage.training.trained if stage.training else 0,
        "memory_bytes": {**asdict(memory), "total": memory.total},
        "tokens": stage.tokens,
        "flops": stage.flops,
        "seconds": stage.seconds,
        "disk_bytes": stage.disk,
        "scratch_bytes": stage.scratch,
        "fits": stage.fits(planner.hardware),
        "remedy": stage.remedy,
    }


def gib(value: float) -> str:
    """`17.3 GiB`."""
    number = value / GIB
    return f"{number:.1f} GiB" if number < 100 else f"{number:.0f} GiB"


def size(value: float) -> str:
    """Bytes on disk; `-` for nothing."""
    return size_text(value) if value > 0 else NOTHING


def short(value: float) -> str:
    """`7.24 B`; `-` for nothing."""
    if value <= 0:
        return "-"
    for limit, letter in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:.0f}"
