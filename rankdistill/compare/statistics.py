"""What can be said of objectives from a few seeds and some prompts, and of how many at once.

A table is [S, P]: what run s (one seed) got on held-out prompt p, of one objective or of the
difference of two. The estimate is the mean over the table. Two things would differ in another
experiment, and they are crossed: the prompts, and the seed of the training run.

- **One seed.** The prompts are resampled (BCa, as in the run's own report), and p-values come from
  flipping the signs of whole prompts (`scipy.stats.permutation_test`). That speaks of these trained
  students: what another seed would give is not in the data, and no arithmetic brings it there.
- **Two or three seeds.** The prompts are resampled, of all seeds together, so that the answers to
  one prompt stay together. Seeds are clusters too, but resampling two of them gives one of three
  pairs and, on average, half of their variance, and resampling three two thirds: intervals that are
  far too narrow. So their part is drawn instead: the variance between seeds is pooled over all
  objectives, less what the answers to a finite number of prompts put into it, and its own
  uncertainty comes in by dividing by a chi-square variate (the generalised confidence interval of
  Weerahandi 1993, as for any variance component). With many seeds this becomes the bootstrap of
  seeds. Pooling supposes that seeds disturb all objectives alike; with S seeds and G objectives it
  rests on (G-1)(S-1) degrees of freedom for differences, and on up to G(S-1) for leads.

How many differences are looked at is corrected for by Holm's method (1979), which needs no
independence: among objectives that are all equal, any is called different in at most 5 % of
comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from rankdistill.statistics import LEVEL, RESAMPLES, Interval, mean_interval

_VALUES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Estimate(Interval):
    """A mean over seeds and prompts, its interval, and the p-value of "it is the null value"."""

    p_value: float
    seeds: int


@dataclass(frozen=True)
class SeedSpread:
    """How much seeds differ, pooled over tables."""

    variance: float
    """Between the means of runs that differ in their seed only."""
    noise: float
    """Of a single answer's score, prompt and seed taken out; `variance` contains a P-th of it."""
    freedom: float
    """Degrees of freedom that `variance` rests on."""

    def draws(self, count: int, prompts: int, generator: np.random.Generator) -> np.ndarray:
        """[count] plausible variances between seeds, without the part of the answers."""
        whole = self.variance * self.freedom / generator.chisquare(self.freedom, count)
        return np.maximum(0.0, whole - self.noise / prompts)


def of_objectives(tables: Sequence[np.ndarray], *, seed: int) -> list[Estimate]:
    """One estimate per objective, against 0; tables [S, P], whose S may differ, P not.

    ValueError: an empty table, or tables over different numbers of prompts.
    """
    return _estimates(tables, _shared_freedom(tables), 0.0, seed)


def of_differences(
    tables: Sequence[np.ndarray], objectives: int, *, null: float = 0.0, seed: int
) -> list[Estimate]:
    """One estimate per pair of `objectives`, against `null`; tables as in `of_objectives`."""
    return _estimates(tables, float((objectives - 1) * (_seeds(tables) - 1)), null, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below alpha is beyond noise, family-wise."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _estimates(
    tables: Sequence[np.ndarray], freedom: float, null: float, seed: int
) -> list[Estimate]:
    if not tables:
        return []
    if len({table.shape[1] for table in tables}) > 1 or min(table.size for table in tables) == 0:
        raise ValueError("the tables are not over the same prompts, or have none")
    spread = _spread(tables, freedom)
    if spread is None or tables[0].shape[1] == 1:
        return [_of_prompts(table, null, seed) for table in tables]
    means = np.stack([table.mean(axis=0) for table in tables])
    prompts = _resampled(means, np.random.default_rng(seed))
    generator = np.random.default_rng([seed, 1])
    variances = spread.draws(RESAMPLES, means.shape[1], generator)
    found = []
    for table, deviations in zip(tables, prompts, strict=True):
        noise = generator.standard_normal(RESAMPLES) * np.sqrt(variances / len(table))
        draws = table.mean() + deviations + noise
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        beyond = min((draws <= null).sum(), (draws >= null).sum())
        p_value = min(1.0, 2.0 * (beyond + 1) / (RESAMPLES + 1))
        found.append(Estimate(float(table.mean()), float(low), float(high), p_value, len(table)))
    return found


def _of_prompts(table: np.ndarray, null: float, seed: int) -> Estimate:
    """What the prompts alone say, of these runs."""
    values = table.mean(axis=0)
    interval = mean_interval(values.tolist(), seed=seed)
    return Estimate(interval.mean, interval.low, interval.high, _flipped(values - null, seed), 1)


def _flipped(values: np.ndarray, seed: int) -> float:
    """Two-sided p-value that the mean is 0, from flipping signs; 1 where nothing differs."""
    if values.size < 2 or not np.any(values):
        return 1.0
    result: Any = stats.permutation_test(
        (values, np.zeros_like(values)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, _VALUES_AT_ONCE // values.size),
        rng=np.random.default_rng(seed),
    )
    return float(min(1.0, result.pvalue))


def _resampled(means: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[tables, RESAMPLES] deviations of resampled prompts' means; the same prompts for every table.

    means: [tables, P]. A resample's variance is (P-1)/P of what it stands for, and what it stands
    for is itself estimated: both are made up for, as Student's t does.
    """
    count = means.shape[1]
    centred = means - means.mean(axis=1, keepdims=True)
    step = max(1, _VALUES_AT_ONCE // count)
    even = np.full(count, 1.0 / count)
    parts = [
        centred @ generator.multinomial(count, even, min(step, RESAMPLES - start)).T / count
        for start in range(0, RESAMPLES, step)
    ]
    widening = np.sqrt(count / generator.chisquare(count - 1, RESAMPLES))
    return np.concatenate(parts, axis=1) * widening


def _spread(tables: Sequence[np.ndarray], freedom: float) -> SeedSpread | None:
    """The spread of seeds over all tables; None where no table has two."""
    repeated = [table for table in tables if len(table) > 1]
    if not repeated or freedom <= 0:
        return None
    variance = np.mean([table.mean(axis=1).var(ddof=1) for table in repeated])
    noise = np.mean([_interaction(table) for table in repeated])
    return SeedSpread(float(variance), float(noise), freedom)


def _interaction(table: np.ndarray) -> float:
    """Variance that is left when prompt means and seed means are taken out."""
    rows, columns = table.shape
    if columns == 1:
        return 0.0
    left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((left**2).sum() / ((rows - 1) * (columns - 1)))


def _seeds(tables: Sequence[np.ndarray]) -> int:
    """The fewest seeds of a table that has more than one; 1 where none has."""
    return min((len(table) for table in tables if len(table) > 1), default=1)


def _shared_freedom(tables: Sequence[np.ndarray]) -> float:
    """Degrees of freedom of a variance that is pooled over objectives with shared seeds.

    Runs of one seed share their warm-up and the answers they are compared with, so their leads go
    up and down together, and G objectives tell less than G times what one does: with correlation r
    it is G / (1 + (G-1) r) times (Kish's design effect; less than that where r is well known). r
    comes from the variance components of a two-way layout.
    """
    count = _seeds(tables)
    means = np.array([t.mean(axis=1)[:count] for t in tables if len(t) > 1])
    objectives = len(means)
    if count < 2 or objectives < 2:
        return float(count - 1)
    together = objectives * means.mean(axis=0).var(ddof=1)
    left = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    apart = (left**2).sum() / ((objectives - 1) * (count - 1))
    common = max(0.0, (together - apart) / objectives)
    r = common / (common + apart) if common + apart > 0 else 0.0
    return objectives * (count - 1) / (1 + (objectives - 1) * r)


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
