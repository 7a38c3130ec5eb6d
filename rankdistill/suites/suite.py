"""What a suite is, and what it hands to the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from rankdistill.evaluate.items import ItemValues, interval_of
from rankdistill.statistics import exact_at_ends

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run


@cache
def shipped() -> frozenset[str]:
    """What `eval=[...]` calls the suites of this package: the names of their YAML files."""
    names = (entry.name for entry in files("rankdistill.eval").iterdir())
    return frozenset(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@dataclass(frozen=True)
class Figure:
    """One figure of one model."""

    key: str
    """Key in `metrics.json`, below its suite."""
    title: str
    """What the row of the table is called."""
    meaning: str
    """One sentence below the table."""
    mean: float | None
    """None: no item was left to average."""
    low: float | None
    high: float | None
    """The 95 % interval over items; None: there is none."""
    items: int
    """That were averaged."""
    share: bool = True
    """In [0, 1], shown in per cent; False: on a scale of its own."""
    detail: bool = False
    """Part of another figure: in the report, not in the terminal's table."""
    values: ItemValues | None = field(default=None, compare=False, repr=False)
    """What it is made of, by item, so that models are compared on the same ones; None: it is none
    of items."""


@dataclass(frozen=True)
class Measured:
    """What a suite found of one model."""

    figures: Sequence[Figure]
    counts: Mapping[str, float] = field(default_factory=dict)
    """What it took, and what was set aside."""


class Suite(ABC):
    """Measures one model. Frozen dataclasses implement it, named by `_target_` in `eval/`."""

    version: int
    """Figures of different versions do not compare."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What `eval=[...]` calls it."""

    @abstractmethod
    def about(self) -> str:
        """How it was measured, in a few words."""

    def check(self, run: Run) -> None:  # noqa: B027  (most have nothing to refuse)
        """Refuse at start-up what can be known there. UserError: it cannot work."""

    @abstractmethod
    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known.

        Args:
            role: Its name in the report, for the person.
        """

    def others(self, run: Run) -> dict[str, Measured]:
        """What it measures that is no model of the run, as a reward model, by its heading."""
        return {}


def mean_figure(
    key: str,
    title: str,
    meaning: str,
    values: Sequence[float] | Mapping[str, float],
    *,
    share: bool = True,
    detail: bool = False,
) -> Figure:
    """The mean of one value per item, with its interval over items (bootstrap of seed 0).

    Args:
        values: By the items' ids where models are to be compared on the same ones.
    """
    if not isinstance(values, Mapping):
        named = ItemValues.of(dict(zip(map(str, range(len(values))), values, strict=True)))
        return replace(item_figure(key, title, meaning, named, share, detail), values=None)
    return item_figure(key, title, meaning, ItemValues.of(values), share, detail)


def item_figure(
    key: str,
    title: str,
    meaning: str,
    values: ItemValues,
    share: bool = True,
    detail: bool = False,
) -> Figure:
    """The same of any values by item; `items` counts all of them, instructions too.

    Where all shares are 0, or all 1, resampling shows no spread: the bound is then exact (Clopper
    and Pearson 1934).
    """
    count = len(values.ids)
    if not count:
        return Figure(key, title, meaning, None, None, None, 0, share, detail, values)
    interval = interval_of(values)
    if share and interval.low is not None:
        interval = exact_at_ends(interval, count)
    counted = count if len(values.counts) > 1 else round(float(values.counts.sum()))
    figure = (interval.mean, interval.low, interval.high, counted)
    return Figure(key, title, meaning, *figure, share, detail, values)
