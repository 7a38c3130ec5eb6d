"""Distillation of what goes on inside the teacher, beside what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.warmup.matching import attach
from rankdistill.warmup.options import require
from rankdistill.warmup.recorder import Recorder
from rankdistill.warmup.stored import StoredDistillation

LAYERS = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class HiddenWarmup(StoredDistillation):
    """``alpha T^2 D + beta CE + gamma (1 - cosine of states)`` on the teacher's responses.

    DistilBERT (Sanh et al. 2019, arXiv:1910.01108) with its published weights, on response tokens
    of a causal model; `layers=all` is DistillFlow's, with one projection per layer where the sizes
    differ, trained along and not kept.

    Args:
        alpha: Weight of the divergence, >= 0.
        beta: Weight of the cross-entropy with the response, >= 0.
        gamma: Weight of the states, > 0.
        layers: `last` matches the last hidden states, `all` those after every layer of the student.
        attention: Also match what the attention of every layer returns.
        relational: Weight, beside the cosine, of how tokens of a response resemble each other.
    """

    temperature: float = 2.0
    alpha: float = 5.0
    beta: float = 2.0
    gamma: float = 1.0
    layers: str = "last"
    attention: bool = False
    relational: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("alpha", "beta", "relational"):
            require(key, getattr(self, key), getattr(self, key) >= 0, "at least 0")
        require("gamma", self.gamma, self.gamma > 0, "above 0 under warmup=hidden")
        if self.layers not in LAYERS:
            raise UserError(
                f"warmup.layers '{self.layers}' is unknown: {suggest(self.layers, LAYERS)}"
            )
        if self.teacher_outputs == "hidden" and (self.layers != "last" or self.attention):
            raise UserError(
                "warmup.teacher_outputs=hidden keeps the teacher's last hidden states only: set it "
                "to live, or match warmup.layers=last without warmup.attention."
            )

    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, self.beta

    def attach(self, student: Any, teacher: Any) -> Recorder:
        return attach(
            student,
            teacher,
            layers=self.layers,
            attention=self.attention,
            weight=self.gamma,
            relational=self.relational,
        )

    @property
    def identity(self) -> dict[str, Any]:
        keys = ("alpha", "beta", "gamma", "layers", "attention", "relational")
        own = {key: getattr(self, key) for key in keys}
        return {"warmup": "hidden", **own, **self.distillation}
