"""What a suite's figure is made of, item by item, so that two models are compared on the same ones.

An accuracy is a mean over items. One over instructions, of which an item has one to three, is a sum
over a count; and the mean of both, or a mean over subsets, is one of several such parts. Items are
resampled whole, with all of their instructions: those of one response are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rankdistill.statistics import Interval, bootstrap, mean_interval

_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class ItemValues:
    """A figure by item: the mean over its parts of the sum of `sums` over the sum of `counts`."""

    ids: Sequence[str]
    sums: np.ndarray
    """[parts, items]"""
    counts: np.ndarray
    """[parts, items]; what an item has none of counts 0."""

    @staticmethod
    def of(values: Mapping[str, float]) -> ItemValues:
        """One value per item, which are averaged."""
        sums = np.array([[*values.values()]], dtype=np.float64)
        return ItemValues([*values], sums, np.ones_like(sums))

    @staticmethod
    def of_lists(values: Mapping[str, Sequence[float]]) -> ItemValues:
        """Several values per item, each of which counts alike."""
        sums = np.array([[sum(of) for of in values.values()]], dtype=np.float64)
        counts = np.array([[len(of) for of in values.values()]], dtype=np.float64)
        return ItemValues([*values], sums, counts)

    @staticmethod
    def over_subsets(subsets: Iterable[Mapping[str, float]]) -> ItemValues:
        """One value per item, averaged over each of several subsets, which then count alike."""
        listed = [*subsets]
        ids = [name for subset in listed for name in subset]
        counts = np.array([[float(name in subset) for name in ids] for subset in listed])
        values = np.array([subset[name] for subset in listed for name in subset])
        return ItemValues(ids, counts * values, counts)

    @staticmethod
    def mean_of(parts: Sequence[ItemValues]) -> ItemValues:
        """The mean of several figures of the same items."""
        ids = parts[0].ids
        return ItemValues(
            ids,
            np.concatenate([part.on(ids).sums for part in parts]),
            np.concatenate([part.on(ids).counts for part in parts]),
        )

    def on(self, ids: Sequence[str]) -> ItemValues:
        """The same of some of the items, in their order."""
        place = {name: i for i, name in enumerate(self.ids)}
        kept = [place[name] for name in ids]
        return ItemValues(ids, self.sums[:, kept], self.counts[:, kept])

    @property
    def mean(self) -> float:
        return float(_mean_of_ratios(*self.sums, *self.counts))


def interval_of(values: ItemValues) -> Interval:
    """The figure, and its 95 % interval over resampled items (bootstrap of seed 0)."""
    return _interval(values.sums, values.counts)


def change(after: ItemValues, before: ItemValues) -> Interval | None:
    """The paired difference of two models on the items that both have; None: there is none.

    Both have as many instructions, or whatever is counted, of an item.
    """
    known = set(before.ids)
    ids = [name for name in after.ids if name in known]
    if not ids:
        return None
    a, b = after.on(ids), before.on(ids)
    return _interval(a.sums - b.sums, a.counts)


def over_seeds(values: Sequence[ItemValues]) -> ItemValues:
    """The mean of several models, such as the students of several seeds, on the items of all."""
    known = set(values[0].ids).intersection(*(of.ids for of in values))
    ids = [name for name in values[0].ids if name in known]
    same = [of.on(ids) for of in values]
    sums, counts = (np.mean([getattr(of, n) for of in same], axis=0) for n in ("sums", "counts"))
    return ItemValues(ids, sums, counts)


def _interval(sums: np.ndarray, counts: np.ndarray) -> Interval:
    parts, items = sums.shape
    if parts == 1 and (counts == 1.0).all():
        return mean_interval(sums[0].tolist(), seed=0)
    mean = float(_mean_of_ratios(*sums, *counts))
    if items == 1:
        return Interval(mean, None, None)
    if not sums.any():
        return Interval(0.0, 0.0, 0.0)
    batch = max(1, _VALUES_AT_ONCE // (2 * parts * items))
    low, high = bootstrap([*sums, *counts], _mean_of_ratios, 0, batch=batch)
    return Interval(mean, low, high)


def _mean_of_ratios(*arrays: np.ndarray, axis: int = -1) -> np.ndarray:
    """Of the sums of each part, and then the counts of each."""
    half = len(arrays) // 2
    sums, counts = arrays[:half], arrays[half:]
    ratios = [s.sum(axis) / c.sum(axis) for s, c in zip(sums, counts, strict=True)]
    return np.mean(ratios, axis=0)
