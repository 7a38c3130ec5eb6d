"""A plan as a terminal shows it, of one machine or several, and as a program reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from rankdistill.plan.memory import GIB, Memory
from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import PlannedStage, room
from rankdistill.plan.suites import unplanned
from rankdistill.report.stages import duration
from rankdistill.report.table import NOTHING, size
from rankdistill.store.words import size_text

GRADIENT = 4
"""Bytes of a trained parameter that a step exchanges, whatever the weights' precision; what FSDP
and ZeRO send of weights comes on top."""


@dataclass(frozen=True)
class Machines:
    """What all machines take together."""

    machines: int
    seconds: float
    cost: float | None
    longest: str
    """The stage that takes the most of it."""
    longest_share: float
    step_bytes: float
    """That a machine sends in a step of the largest training."""
    read_bytes: float
    """Weights that all machines read from the shared folder, each for itself, of all stages."""
    written_bytes: float
    """Outputs and checkpoints."""


def of_machines(planner: Planner, found: Sequence[PlannedStage]) -> Machines:
    """The plan for `plan.machines` of them."""
    count, price = planner.plan.machines, planner.plan.price
    seconds = [_seconds(stage, planner) for stage in found]
    longest = max(range(len(found)), key=seconds.__getitem__)
    total = sum(seconds)
    return Machines(
        machines=count,
        seconds=total,
        cost=None if price is None else price * count * total / 3600,
        longest=found[longest].name,
        longest_share=seconds[longest] / total if total else 0.0,
        step_bytes=max((_exchanged(stage, count) for stage in found), default=0.0),
        read_bytes=sum(
            stage.memory.weights * (count if _is_shared(stage) else 1) for stage in found
        ),
        written_bytes=sum(stage.disk for stage in found) + max(stage.scratch for stage in found),
    )


def told(plan: Machines) -> str:
    """For a person."""
    machines = f"{plan.machines} machines" if plan.machines > 1 else "1 machine"
    cost = "" if plan.cost is None else f", cost {plan.cost:,.0f}"
    line = (
        f"{machines}: {duration(plan.seconds, roughly=True)}{cost}; the longest stage is "
        f"{plan.longest} ({plan.longest_share:.0%})."
    )
    if plan.machines == 1:
        return line
    step, read, written = map(size_text, (plan.step_bytes, plan.read_bytes, plan.written_bytes))
    return (
        f"{line} A step of training sends {step} from each; the shared folder gives {read} of "
        f"weights and takes {written}."
    )


def _is_shared(stage: PlannedStage) -> bool:
    """Whether all machines work on it; a server's rows are asked for by the first alone."""
    by_model = stage.name in ("sample", "score") and stage.parameters > 0
    return by_model or stage.training is not None


def _seconds(stage: PlannedStage, planner: Planner) -> float:
    count = planner.plan.machines
    if count == 1 or not _is_shared(stage):
        return stage.seconds
    start = min(stage.seconds, planner.hardware.start_seconds)  # every machine loads its models
    exchange = stage.steps * _exchanged(stage, count) / planner.plan.network
    return start + (stage.seconds - start) / count + exchange


def _exchanged(stage: PlannedStage, count: int) -> float:
    """Bytes that a machine sends in a step: a ring sends each gradient nearly twice."""
    if stage.training is None or count == 1:
        return 0.0
    return 2 * (count - 1) / count * GRADIENT * stage.training.trained


WIDTH = 100
"""Columns that the whole table is made for."""
FIGURES = ("params", "memory", "tokens", "FLOPs", "time", "disk")
FEW_FIGURES = ("memory", "time")
"""Where there is no room for all: does it fit, and how long?"""

CALLED = {"optimiser": "AdamW", "others": "other models", "cache": "keys and values"}
"""Parts of the memory that are called otherwise."""


def table(planner: Planner, found: Sequence[PlannedStage], width: int = WIDTH) -> Table:
    """One row per stage, with as many figures as there is room for."""
    names = FIGURES if width >= WIDTH else FEW_FIGURES
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    shown.add_column("stage")
    shown.add_column("what", ratio=1)
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for stage in found:
        fits = stage.fits(planner.hardware)
        cells = {
            "params": short(stage.parameters).replace("G", "B"),
            "memory": Text(gib(stage.memory.total), style="" if fits else "bold red"),
            "tokens": short(stage.tokens),
            "FLOPs": short(stage.flops),
            "time": duration(stage.seconds, roughly=True),
            "disk": size(stage.disk or None),
        }
        lead = Text(stage.name, style="bold" if fits else "bold red"), Text(stage.what)
        shown.add_row(*lead, *(cells[name] for name in names))
    total = {
        "memory": gib(max(stage.memory.total for stage in found)),
        "FLOPs": short(sum(stage.flops for stage in found)),
        "time": duration(sum(stage.seconds for stage in found), roughly=True),
        "disk": size(sum(stage.disk for stage in found) or None),
    }
    shown.add_section()
    shown.add_row("all", "", *(total.get(name, "") for name in names))
    return shown


def peak(found: Sequence[PlannedStage]) -> str:
    """What the stage with the largest memory holds."""
    stage = max(found, key=lambda stage: stage.memory.total)
    parts = ", ".join(
        f"{CALLED.get(name, name)} {gib(value)}"
        for name, value in asdict(stage.memory).items()
        if value > 0.005 * stage.memory.total
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
        "suites_not_counted": unplanned(planner.settings),
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
        "asked": None if stage.asked is None else asdict(stage.asked),
    }


def gib(value: float) -> str:
    """`17.3 GiB`."""
    number = value / GIB
    return f"{number:.1f} GiB" if number < 100 else f"{number:.0f} GiB"


def short(value: float) -> str:
    """`7.24 B`; `-` for nothing."""
    if value <= 0:
        return NOTHING
    for power, letter in zip(range(18, 0, -3), "EPTGMk", strict=True):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.0f}"
