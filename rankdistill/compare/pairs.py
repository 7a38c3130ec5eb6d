"""Differences between every two objectives, and which of them are beyond noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rankdistill.compare.statistics import Estimate, holm, of_differences
from rankdistill.statistics import LEVEL

Tables = Mapping[str, Mapping[int, np.ndarray]]
"""By label, then by seed: a value per prompt, [P]; the same prompts everywhere."""


@dataclass(frozen=True)
class Tested:
    """An estimate, and what is left of it when it is one of several."""

    estimate: Estimate
    adjusted: float
    """Holm's p-value over the estimates that were made together."""

    @property
    def beyond_noise(self) -> bool:
        return self.adjusted < 1.0 - LEVEL


@dataclass(frozen=True)
class Difference:
    """Objective `better` minus objective `worse`, by their means."""

    better: str
    worse: str
    tested: Tested
    wins: Estimate | None
    """How often an answer of `better` is scored above one of `worse`; None where none is."""
    paired_seeds: int
    """Seeds that both have; 0: each over its own."""


def tested(estimates: Sequence[Estimate]) -> list[Tested]:
    """The estimates, each with what Holm's correction over all of them leaves."""
    adjusted = holm([estimate.p_value for estimate in estimates])
    return [Tested(*pair) for pair in zip(estimates, adjusted, strict=True)]


def pair_differences(tables: Tables, *, seed: int) -> list[Difference]:
    """Every pair on the seeds that both have, else on the means over their own; without wins."""
    means = {label: np.mean(list(rows.values())) for label, rows in tables.items()}
    pairs = [(a, b) if means[a] >= means[b] else (b, a) for a, b in combinations(tables, 2)]
    rows = [_pair_table(tables[a], tables[b]) for a, b in pairs]
    estimates = of_differences(rows, len(tables), seed=seed)
    return [
        Difference(a, b, one, None, len(shared_seeds(tables[a], tables[b])))
        for (a, b), one in zip(pairs, tested(estimates), strict=True)
    ]


def shared_seeds(a: Mapping[int, object], b: Mapping[int, object]) -> list[int]:
    """Those that both have."""
    return sorted(a.keys() & b.keys())


def _pair_table(a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray]) -> np.ndarray:
    """[S, P]; S is 1 where no seed is shared."""
    if seeds := shared_seeds(a, b):
        return np.stack([a[seed] - b[seed] for seed in seeds])
    of_a, of_b = (np.mean(list(of.values()), axis=0, keepdims=True) for of in (a, b))
    return of_a - of_b
