"""What a nat of KL to the reference costs."""

from __future__ import annotations

from dataclasses import dataclass

STEEPEST = 0.2
"""Relative error of the KL beyond which the coefficient does not change faster."""


@dataclass
class KLController:
    """A fixed coefficient, or one that steers the KL to a target (Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2).

    Args:
        coefficient: Now.
        target: Nats per response; None keeps the coefficient fixed.
        horizon: Responses after which a KL far off has changed the coefficient by `STEEPEST`.
    """

    coefficient: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, responses: int) -> None:
        """After a rollout of `responses` whose KL was `kl` nats per response."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -STEEPEST), STEEPEST)
            self.coefficient *= 1.0 + error * responses / self.horizon
