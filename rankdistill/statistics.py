"""Differences between models, with the uncertainty that the choice of prompts brings.

The prompt is the unit that is resampled: the responses to one prompt are not independent of each
other, and another evaluation would draw other prompts. Scores are averaged per prompt first, and
models are compared on the same prompts (paired). Intervals are BCa bootstrap intervals (Efron 1987,
"Better Bootstrap Confidence Intervals") by `scipy.stats.bootstrap`; they say nothing about the
seed of the training run, which only repeated runs can tell.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
_VALUES_AT_ONCE = 2_000_000  # bounds the bootstrap's memory to about 16 MB per array


@dataclass(frozen=True)
class Interval:
    """A mean over prompts and the interval that holds the true mean at the stated level."""

    mean: float
    low: float | None
    """None where no interval exists: a single prompt says nothing about other prompts."""
    high: float | None

    def excludes(self, value: float = 0.0) -> bool:
        """True where `value` lies outside the interval; False where there is no interval."""
        if self.low is None or self.high is None:
            return False
        return not self.low <= value <= self.high


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau averaged over groups, and how many groups it was defined for."""

    mean: float | None
    """In [-1, 1], 1: every pair in the teacher's order; None: no group has a defined tau."""
    low: float | None
    high: float | None
    groups: int
    """Groups that were averaged."""
    skipped: int
    """Groups without a tau: fewer than two responses, or all values of one side equal."""


def mean_interval(
    values: Sequence[float], *, seed: int, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """The mean of one value per prompt. ValueError: no value, or one that is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError("an interval needs one value per prompt, and at least one prompt")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite; leave its prompt out and count it")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, None, None)
    if np.ptp(array) == 0.0:
        return Interval(mean, mean, mean)
    batch = max(1, _VALUES_AT_ONCE // array.size)
    low, high = bootstrap([array], np.mean, seed, level=level, resamples=resamples, batch=batch)
    return Interval(mean, low, high)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """The mean of ``a - b`` over prompts; position i of both is the same prompt.

    ValueError: different lengths, no prompt, or a value that is not finite.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, seed=seed, resamples=resamples)


def win_rate(
    a: Sequence[float | Sequence[float]],
    b: Sequence[float | Sequence[float]],
    tie_margin: float = 0.0,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """How often a response of `a` is scored above a response of `b` to the same prompt, in [0, 1].

    a, b: one score per prompt, or a list of scores, one per response; then every response of one
    meets every response of the other, and the prompt counts once. A difference of at most
    `tie_margin` is a tie and counts one half.

    Where every prompt is won, or every prompt lost, resampling cannot show any spread; the bound
    is then exact (Clopper and Pearson 1934): n wins of n leave rates down to ``(alpha/2)^(1/n)``.

    ValueError: different lengths, no prompt, or a prompt without a response.
    """
    shares = [share_won(x, y, tie_margin) for x, y in zip(a, b, strict=True)]
    interval = mean_interval(shares, seed=seed, resamples=resamples)
    return interval if interval.low is None else exact_at_ends(interval, len(shares))


def exact_at_ends(interval: Interval, count: int) -> Interval:
    """The interval of a share; where all `count` are 0, or all 1, the exact one of `win_rate`."""
    bound = ((1.0 - LEVEL) / 2.0) ** (1.0 / count)
    if interval.mean == 1.0:
        return Interval(1.0, bound, 1.0)
    return Interval(0.0, 0.0, 1.0 - bound) if interval.mean == 0.0 else interval


def mean_agreement(
    taus: Sequence[float | None],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Agreement:
    """The average of one tau per group; None stands for a group where it is undefined."""
    defined = [tau for tau in taus if tau is not None]
    skipped = len(taus) - len(defined)
    if not defined:
        return Agreement(None, None, None, 0, skipped)
    interval = mean_interval(defined, seed=seed, resamples=resamples)
    return Agreement(interval.mean, interval.low, interval.high, len(defined), skipped)


def tau_b(values: Sequence[float], scores: Sequence[float]) -> float | None:
    """Kendall's tau-b of one group, in [-1, 1]; None: fewer than two different values or scores."""
    if len(values) != len(scores):
        raise ValueError(f"{len(values)} policy values but {len(scores)} teacher scores in a group")
    if len(set(values)) < 2 or len(set(scores)) < 2:
        return None
    result: Any = stats.kendalltau(values, scores, variant="b")
    return float(result.statistic)


def share_won(a: float | Sequence[float], b: float | Sequence[float], tie_margin: float) -> float:
    """Share of the pairs of responses to one prompt that `a` wins, ties half; see `win_rate`."""
    differences = np.subtract.outer(np.ravel(a), np.ravel(b))
    if differences.size == 0:
        raise ValueError("a prompt has no response; leave it out and count it")
    won = (differences > tie_margin).mean()
    tied = (np.abs(differences) <= tie_margin).mean()
    return float(won + tied / 2.0)


def bootstrap(
    samples: Sequence[Any],
    statistic: Callable[..., Any],
    seed: int,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    batch: int = 500,
) -> tuple[float, float]:
    """The ends of the BCa interval, or where that is undefined of the percentiles'; maybe NaN.

    Args:
        samples: One array, or several of the same prompts, which are resampled together.
        statistic: Vectorised: of the samples, and an `axis`.
        batch: Resamples that are computed at once.
    """
    low = high = math.nan
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                tuple(samples),
                statistic,
                paired=len(samples) > 1,
                n_resamples=resamples,
                batch=batch,
                vectorized=True,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(seed),
            )
        low, high = map(float, result.confidence_interval)
        # BCa is undefined where all resampled means lie on one side, as with two or three prompts.
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high
