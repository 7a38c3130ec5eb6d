"""What a second replica on a Ray cluster gains: rows per second of one and of two, on this machine.

A replica has one core and one thread. A scripted sampler that sleeps shows what it costs to hand
out prompts and to write rows; transformers' also shares the cores with the process that does so.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.table import Table

from rankdistill.bench.results import order
from rankdistill.bench.rows import random_model, table_of
from rankdistill.cluster.ray import check_cluster, rows_of
from rankdistill.errors import UserError
from rankdistill.schema import ClusterConfig
from rankdistill.store import Store
from rankdistill.store.sharing import Chunk, collect

AT_ONCE, RESPONSES, TOKENS = 16, 4, 64
HIDDEN, LAYERS = 512, 4
SECONDS = 0.02
"""That the scripted sampler sleeps for a row."""
START_SECONDS = 600
"""That replicas may take to start; then all are there before the first row is asked for."""
TARGETS = {"scripted": 1.9, "transformers": 1.5}
"""What two replicas should make of the rows per second of one."""


@dataclass(frozen=True)
class Scripted:
    """A replica's work: it sleeps."""

    def opened(self) -> Any:
        def make(chunk: Any) -> Iterator[Mapping[str, Any]]:
            for name, _ in chunk[0]:
                time.sleep(SECONDS)
                yield {"prompt_id": name, "responses": []}

        return make


@dataclass(frozen=True)
class Marked:
    """The rows of another work, each with the process that made it."""

    work: Any

    def opened(self) -> Any:
        make = self.work.opened()
        return lambda chunk: ({**row, "replica": os.getpid()} for row in make(chunk))


def measure(rounds: int, chunks: int) -> Iterator[dict[str, Any]]:
    """A row for each sampler; one and two replicas take turns.

    Args:
        chunks: Of `AT_ONCE` prompts, that each turn samples.

    Yields:
        sampler; one, two: rows per second, medians of `turns`; gain, target: of two over one.

    Raises:
        UserError: Ray is not installed, or has no room for two replicas.
    """
    prompts = [(f"p{n}", [2 + n % 50, 3, 4, 5]) for n in range(chunks * AT_ONCE)]
    check_cluster(_cluster(1))
    if import_module("ray").cluster_resources()["CPU"] < 2:
        raise UserError("`bench cluster` compares one replica with two, and needs two cores.")
    import_module("ray.data").DataContext.get_current().wait_for_min_actors_s = START_SECONDS
    with tempfile.TemporaryDirectory(prefix="rankdistill-cluster-") as folder:
        works = {"scripted": Scripted(), "transformers": _sampling(Path(folder))}
        try:
            for name, work in works.items():
                turns: dict[str, list[float]] = {"one": [], "two": []}
                for turn, count in enumerate(order(["one", "two"], rounds)):
                    store = Store(Path(folder) / f"{name}-{turn}")
                    turns[count].append(rate(work, prompts, 1 + (count == "two"), store))
                one, two = map(statistics.median, turns.values())
                yield {
                    "sampler": name, "one": one, "two": two, "gain": two / one,
                    "target": TARGETS[name], "turns": turns,
                }  # fmt: skip
        finally:
            import_module("ray").shutdown()


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """For a person."""
    return table_of(rows, ("sampler", "one", "two", "gain", "target"))


def rate(work: Any, prompts: Sequence[Any], replicas: int, store: Store) -> float:
    """Rows per second that are written while all replicas are at work."""
    came: list[tuple[float, int]] = []

    def there(chunks: Sequence[Chunk]) -> Iterator[Any]:
        asked = [[[prompts[place] for place in places], []] for places, _ in chunks]
        for row in rows_of(_cluster(replicas), Marked(work), asked, 0):
            yield row
            came.append((time.monotonic(), row["replica"]))

    def make(partial: Any) -> dict[str, Any]:
        collect(partial, [name for name, _ in prompts], AT_ONCE, there)
        return {}

    store.output("sample", {}, make)
    ends: dict[int, list[float]] = {}
    for moment, replica in came[AT_ONCE - 1 :: AT_ONCE]:  # the rows of a chunk come together
        ends.setdefault(replica, []).append(moment)
    start, end = max(map(min, ends.values())), min(map(max, ends.values()))
    done = sum(start < moment <= end for moments in ends.values() for moment in moments)
    return done * AT_ONCE / (end - start)


def _cluster(replicas: int) -> ClusterConfig:
    return ClusterConfig(address=None, min=replicas, max=replicas, cores=1, gpus=0)


def _sampling(folder: Path) -> Any:
    from rankdistill.cluster.work import Sampling
    from rankdistill.models import Model
    from rankdistill.sample import SamplingOptions

    random_model(folder / "model", HIDDEN, LAYERS)
    options = SamplingOptions(
        responses_per_prompt=RESPONSES, temperature=1.0, top_p=1.0, top_k=0,
        max_response_tokens=TOKENS, seed=0,
    )  # fmt: skip
    return Sampling(Model(str(folder / "model"), {}), options, "student", "transformers", {})
