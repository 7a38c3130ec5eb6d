"""What is claimed of a GPU, held against one: `python -m rankdistill.bench gpu`.

A part (`PARTS`) runs in a process of its own with a time budget, so that one that crashes or hangs
is a line of the table and no end of it. Models are random and made on the card; nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One line: what is claimed, what was found, what was wanted."""

    claim: str
    figure: str
    target: str
    verdict: str
    """`holds`, `refuted`, or `not run`, which says why in the figure."""

    @classmethod
    def of(cls, claim: str, figure: str, target: str, good: bool) -> Claim:
        """A claim that was tried."""
        return cls(claim, figure, target, "holds" if good else "refuted")

    @classmethod
    def untried(cls, claim: str, why: str, target: str) -> Claim:
        """A claim that this machine, or this model, cannot try."""
        return cls(claim, why, target, "not run")

    @property
    def line(self) -> str:
        return f"{self.claim} | {self.figure} | {self.target} | {self.verdict}"


@dataclass(frozen=True)
class Part:
    """Claims that are tried together."""

    number: int
    what: str
    function: str
    """`module:name`, called with a `Bench`; gives the claims."""
    seconds: int
    """What it may take on a GPU, start included."""


_CLAIMS = "rankdistill.bench.gpu"
PARTS = (
    Part(1, "card", f"{_CLAIMS}.kernels:card", 30),
    Part(2, "tree attention", f"{_CLAIMS}.kernels:attention", 95),
    Part(3, "kernels and masks", f"{_CLAIMS}.kernels:graphs", 120),
    Part(4, "layouts", f"{_CLAIMS}.steps:layouts", 40),
    Part(5, "shared prompt", f"{_CLAIMS}.steps:shared_prompt", 140),
    Part(6, "TRL", f"{_CLAIMS}.steps:trl", 70),
    Part(7, "output layer", f"{_CLAIMS}.kernels:output_layer", 30),
    Part(8, "distillation", f"{_CLAIMS}.distillation:distillation", 60),
    Part(9, "trainer", f"{_CLAIMS}.trainers:loop", 45),
    Part(10, "memory given back", f"{_CLAIMS}.trainers:given_back", 45),
    Part(11, "planner", "rankdistill.plan.measured:planned", 75),
    Part(12, "sharded", f"{_CLAIMS}.sharded:sharded", 60),
    Part(13, "PPO", f"{_CLAIMS}.trainers:ppo", 45),
    Part(14, "sampler", f"{_CLAIMS}.steps:sampler", 40),
    Part(15, "engine", f"{_CLAIMS}.engine:engine", 900),
)
