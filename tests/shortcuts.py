"""What takes much of a tiny run's time, and few tests look at."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from matplotlib.backends.backend_svg import FigureCanvasSVG
from scipy import stats
from transformers import PreTrainedConfig

from rankdistill.report import svg
from rankdistill.score import verifier
from rankdistill.score.verifier.processes import Checkers
from rankdistill.score.verifier.rules import Rule

bootstrap = stats.bootstrap


def few_draws(*samples: Any, n_resamples: int = 0, **options: Any) -> Any:
    return bootstrap(*samples, n_resamples=200, **options)


class NothingDrawn:
    """Axes that take everything and show nothing."""

    def __getattr__(self, name: str) -> NothingDrawn:
        return NothingDrawn()

    def __call__(self, *_: Any, **__: Any) -> NothingDrawn:
        return self

    def set_yticks(self, places: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.labels = [NothingDrawn() for _ in labels]

    def get_yticklabels(self) -> list[NothingDrawn]:
        return self.labels

    def get_legend_handles_labels(self) -> tuple[list[Any], list[str]]:
        return [], []


load_config = ConfigRepository.load_config
shipped: dict[tuple[str, str], bytes] = {}


def read_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A file of a package's configuration, parsed once in a process; any other file each time.

    Hydra builds on the nodes that it is given, and an override would stay in them: they are copies,
    by pickle, as `deepcopy` takes seven times as long.
    """
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() != "pkg":
        return load_config(repository, config_path)
    key = (source.path, config_path)
    if key not in shipped:
        shipped[key] = pickle.dumps(load_config(repository, config_path))
    return pickle.loads(shipped[key])


def without_copy(repository: CachingConfigRepository, delegate: ConfigRepository) -> None:
    """Hydra would copy the whole store of schemas for each composition, which changes none."""
    repository.delegate, repository.cache = delegate, {}


class KeptCheckers(Checkers):
    """Its processes are kept for the next checks by the same rule, as each takes a quarter of a
    second to start. Not those of a function of one's own, which may keep something."""

    kept: ClassVar[dict[tuple[Any, ...], list[Any]]] = {}

    def __init__(self, rule: Rule, limit_s: float, groups: int) -> None:
        super().__init__(rule, limit_s, groups)
        self._kept = self.kept.setdefault((rule, limit_s, os.getpid()), [])
        for _ in range(0 if rule.own else min(len(self._kept), self._count)):
            self._free.get()
            self._free.put(self._kept.pop())
        self._own = rule.own

    def __exit__(self, *exception: Any) -> None:
        if self._own or any(exception):
            super().__exit__(*exception)
        else:
            self._kept += [self._free.get() for _ in range(self._count)]


def shortcuts(*, figures: bool = False, intervals: bool = False) -> Iterator[tuple[Any, str, Any]]:
    """What is put in the place of which attribute.

    Without `figures` they are empty, without `intervals` these are of 200 draws instead of 10,000.
    Files are not forced to the disk, since only a loss of power would show. Hydra parses what a
    package ships once, copies no schemas, and composes neither to see whether a configuration makes
    a sweep of a run, as none of ours does, nor to check the points of a sweep, which ours has done.
    Transformers writes the JSON of each configuration that it loads for a log that nobody reads.
    Processes that check responses are kept.
    """
    if not figures:
        yield svg, "rc_context", nullcontext
        yield svg, "Figure", lambda **_: SimpleNamespace(add_subplot=NothingDrawn)
        yield FigureCanvasSVG, "__init__", lambda *_: None
        yield FigureCanvasSVG, "print_svg", lambda _, to, **__: to.write("<svg/>")
    if not intervals:
        yield stats, "bootstrap", few_draws
    yield PreTrainedConfig, "__repr__", object.__repr__
    yield os, "fsync", lambda _: None
    yield ConfigRepository, "load_config", read_once
    yield CachingConfigRepository, "__init__", without_copy
    yield verifier, "Checkers", KeptCheckers
    yield Hydra, "get_mode", lambda *_, **__: None
    yield Sweeper, "validate_batch_is_legal", lambda *_: None
