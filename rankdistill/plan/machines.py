"""A plan for several machines: hours, cost, the longest stage, and what goes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rankdistill.plan.planner import Planner
from rankdistill.plan.stage import PlannedStage
from rankdistill.report.stages import duration
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
    """Whether all machines work on it: steps of a training are shared, rows are the first's."""
    return stage.training is not None


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
