"""Logit distillation: at every response token the student is pulled to the teacher's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rankdistill.errors import UserError, suggest
from rankdistill.warmup.options import require
from rankdistill.warmup.stored import StoredDistillation

ENGINES = ("transformers", "vllm")


@dataclass(frozen=True, kw_only=True)
class LogitsWarmup(StoredDistillation):
    """``alpha T^2 D(teacher, student) + (1 - alpha) CE`` on the teacher's responses.

    Hinton et al. 2015, arXiv:1503.02531. Differs from DistillFlow: prompt and padding are not
    distilled, the mean is over real tokens rather than a configured length, and a larger embedding
    table is cut, not filled with zero logits.

    Args:
        alpha: Weight of the divergence, in [0, 1].
        teacher_outputs: Also `top_k`: the likeliest tokens and the mass of all others, from disk;
            the divergence is then a lower bound (see `support.py`).
        top_k: Tokens that `top_k` stores of each distribution.
        stored_temperatures: Further temperatures that `top_k` stores the mass of the rest at, for
            warm-ups that share what is stored.
        top_k_from: What runs the teacher for `top_k`: `transformers`, or `vllm` (prompt
            log-probabilities, at temperature 1 only).
    """

    alpha: float = 1.0
    top_k: int = 64
    stored_temperatures: Sequence[float] = ()
    top_k_from: str = "transformers"

    outputs: ClassVar[tuple[str, ...]] = ("live", "top_k", "hidden")

    def __post_init__(self) -> None:
        super().__post_init__()
        require("alpha", self.alpha, 0 <= self.alpha <= 1, "in [0, 1]")
        require("top_k", self.top_k, self.top_k >= 1, "at least 1")
        positive = all(temperature > 0 for temperature in self.stored_temperatures)
        require("stored_temperatures", list(self.stored_temperatures), positive, "all above 0")
        if self.top_k_from not in ENGINES:
            raise UserError(
                f"warmup.top_k_from '{self.top_k_from}' is unknown: "
                f"{suggest(self.top_k_from, ENGINES)}"
            )
        if self.top_k_from == "vllm" and {self.temperature, *self.stored_temperatures} != {1.0}:
            raise UserError(
                "warmup.top_k_from=vllm has the teacher's log-probabilities at temperature 1 only: "
                "set warmup.temperature=1 and no stored_temperatures, or take transformers."
            )

    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, 1 - self.alpha

    @property
    def identity(self) -> dict[str, Any]:
        own: dict[str, Any] = {"warmup": "logits", "alpha": self.alpha, **self.distillation}
        if self.teacher_outputs != "top_k":
            return own
        return {**own, "top_k": self.top_k, "top_k_from": self.top_k_from}

    @property
    def stored(self) -> dict[str, Any] | None:
        if self.teacher_outputs != "top_k":
            return super().stored
        temperatures = sorted({self.temperature, *self.stored_temperatures})
        own = {"kind": "top_k", "k": self.top_k, "temperatures": temperatures}
        return {**own, "engine": "vllm"} if self.top_k_from == "vllm" else own
