"""What goes into an objective and what comes out.

Axes: **B** prompts, **C** candidates of a prompt. `logp` is a natural logarithm, in nats; a `score`
is higher for a better response, in the scorer's own scale; `rank` 0 is best; `mask` True is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The candidate responses of B prompts, padded to C per prompt. Their order means nothing."""

    logps: Tensor
    """[B, C] log-probability under the policy: sum over response tokens, EOS included, nats."""
    lengths: Tensor
    """[B, C] number of response tokens that were summed."""
    scores: Tensor
    """[B, C] teacher scores, not sorted."""
    mask: Tensor
    """[B, C] bool, False is padding."""
    ranks: Tensor | None = None
    """[B, C] int, 0 is best, ties share a rank; None: from the scores, exact ties only."""
    reference_logps: Tensor | None = None
    """[B, C] the same sums under the frozen reference; None where the objective needs none."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of every prompt, unreduced, and what a person would watch."""

    loss: Tensor
    """[B] nats; the loop averages over real prompts, across devices and accumulation steps."""
    metrics: dict[str, Tensor]
    """Each [B], detached."""


@runtime_checkable
class Objective(Protocol):
    """A pure function of the candidates: no device moves, no logging, no randomness.

    Implementations are frozen dataclasses that check their ranges in `__post_init__`.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether `Candidates.reference_logps` is read. A class attribute does as well."""
        ...

    def __call__(self, candidates: Candidates) -> ObjectiveOutput: ...


def learning_rate_of(objective: Objective) -> float:
    """The peak for AdamW that suits an objective: its `learning_rate`, which it need not have."""
    return getattr(objective, "learning_rate", 1e-5)
