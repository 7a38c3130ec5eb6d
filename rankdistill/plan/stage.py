"""What is said of a stage, and how its time follows from its work."""

from __future__ import annotations

from dataclasses import dataclass

from rankdistill.bench.flops import Cost, Work, sequences, shared
from rankdistill.plan.config import HardwareConfig
from rankdistill.plan.memory import BYTES, GIB, Memory, TrainingStep
from rankdistill.plan.shapes import Shape


@dataclass(frozen=True)
class Asked:
    """What a stage asks of a served model."""

    model: str
    urls: tuple[str, ...]
    calls: int
    tokens: float
    """Read and written."""
    dollars: float


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run."""

    name: str
    what: str
    parameters: int
    """Of the model that is run or trained."""
    memory: Memory
    """Per device."""
    tokens: float
    flops: float
    seconds: float
    disk: float = 0.0
    """Bytes that stay in the store."""
    scratch: float = 0.0
    """Bytes of checkpoints while it trains."""
    training: TrainingStep | None = None
    """What its memory is of, where it trains."""
    share: float = 1.0
    """Of the device's memory, what the stage may take: an engine's limit."""
    steps: int = 0
    """Of a training: how often gradients are exchanged."""
    asked: Asked | None = None
    """Where another machine computes it."""
    remedy: str | None = None
    """What makes it fit; None where it fits."""

    def fits(self, hardware: HardwareConfig) -> bool:
        """Whether a device has room for it."""
        return self.memory.total <= room(hardware) * self.share


def room(hardware: HardwareConfig) -> float:
    """Bytes of a device that may be taken."""
    return hardware.memory_gib * (1 - hardware.reserve) * GIB


def cost(shape: Shape) -> Cost:
    """FLOPs of a forward pass; see `rankdistill.bench.flops`."""
    return Cost(
        2 * shape.matrices,
        2 * shape.hidden * shape.vocabulary,
        4 * shape.queries * shape.layers,
    )


def grouped(layout: str, prompt: float, responses: int, response: float) -> Work:
    """A prompt with its responses, in a layout of the grouped forward."""
    p, r = round(prompt), round(response)
    if layout == "shared":
        return shared(responses, p, r)
    return sequences(responses, p, r, rows=responses * r)


def times(work: Work, count: float) -> Work:
    """The same `count` times."""
    return Work(
        round(work.tokens * count), round(work.rows * count), work.pairs * count, work.head_passes
    )


def training_flops(work: Work, shape: Shape, training: TrainingStep) -> float:
    """Of forward and backward; frozen weights need no gradient, recomputed layers per forward."""
    one = cost(shape)
    total = work.training(one)
    if training.lora:
        total -= one.token * work.tokens + one.row * work.rows
    if training.checkpointing is True:
        total += one.token * work.tokens + one.pair * work.pairs
    return total


def computing(flops: float, hardware: HardwareConfig, precision: str, how: str) -> float:
    """Seconds of one device for FLOPs, at the share of its peak that `how` reaches."""
    peak = getattr(hardware.flops, precision)
    return flops / (peak * getattr(hardware.utilisation, how))


def decoding(
    shape: Shape,
    hardware: HardwareConfig,
    precision: str,
    tokens: float,
    at_once: int,
    context: float,
    engines: int,
    devices: int,
) -> float:
    """Seconds to write `tokens`, `at_once` by every engine of `devices`: arithmetic or memory."""
    size = BYTES[precision]
    reached = hardware.utilisation
    one = cost(shape)
    arithmetic = (one.token + one.row + one.pair * context) * at_once
    arithmetic /= getattr(hardware.flops, precision) * reached.decoding
    moved = (shape.parameters + 2 * shape.layers * shape.keys * context * at_once) * size
    moved /= hardware.bandwidth * reached.bandwidth
    return tokens / (at_once * engines) * max(arithmetic, moved) / devices
