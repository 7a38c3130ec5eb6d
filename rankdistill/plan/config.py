"""What the planner is told beside the run's own configuration: the machine, and what is assumed.

The values, and what they mean, are in `conf/plan.yaml` and `conf/hardware/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from rankdistill.fields import above_zero, at_least


@dataclass
class Rates:
    """FLOP/s of a device by precision."""

    float32: float
    bfloat16: float
    float16: float


@dataclass
class Utilisation:
    """Shares of the peak that are reached."""

    training: float
    inference: float
    decoding: float
    bandwidth: float


@dataclass
class HardwareConfig:
    """A machine; see `conf/hardware/`."""

    devices: int
    memory_gib: float
    reserve: float
    flops: Rates
    bandwidth: float
    utilisation: Utilisation
    process_gib: float
    start_seconds: float
    engine_seconds: float


@dataclass
class PlanConfig:
    """What is assumed of the run; see `conf/plan.yaml`."""

    prompts: int | None
    prompt_tokens: float | None
    response_tokens: float | None
    responses: int | None
    conversations: int | None
    spread: str | None
    like: dict[str, str]
    machines: int = 1
    network: float = 3e9
    price: float | None = None

    def __post_init__(self) -> None:
        at_least("plan", self, 1, "machines")
        above_zero("plan", self, "network")
        at_least("plan", self, 0, "price")


@dataclass
class PlannerConfig:
    """The machine and the assumptions."""

    hardware: Any
    plan: PlanConfig


def register_plan() -> None:
    """Offer the schemas to the defaults lists of `conf/plan.yaml` and `conf/hardware/`."""
    store = ConfigStore.instance()
    store.store(name="schema_plan", node=PlannerConfig)
    store.store(group="schema", name="hardware", node=HardwareConfig)
