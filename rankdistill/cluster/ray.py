"""Ray Data's actor pool as what makes rows: it places replicas, replaces dead ones, and grows.

Rows come as chunks are finished, in any order; whoever asks for them is the only one who writes.
Replicas that die, with their node or with their engine, take the chunks with them that they had in
hand (`IN_HAND` each), which others make again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rankdistill.errors import EngineDied, UserError
from rankdistill.schema import ClusterConfig

if TYPE_CHECKING:  # torch comes with it, and a replica need not have any
    from rankdistill.cluster.work import MakeRows, Work

IN_HAND = 2
"""Chunks that a replica has at once: the next is there when one is done."""
MISTAKE = "mistake"
"""In place of rows: a sentence."""


class Replica:
    """One actor."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._make: MakeRows | None = None
        self._has_worked = False

    def __call__(self, batch: Any) -> dict[str, list[str]]:
        try:
            self._make = self._make or self._work.opened()
            rows = [json.dumps(row) for row in self._make(json.loads(batch["chunk"][0]))]
        except EngineDied as error:
            if self._has_worked:  # else it would die again
                os._exit(1)  # as Ray wants it, which puts another replica in this one's place
            return _mistake(error)
        except UserError as error:
            return _mistake(error)
        self._has_worked = True
        return {"row": rows}


def _mistake(error: UserError) -> dict[str, list[str]]:
    """As a row: what is raised here reaches the driver with Ray's own words around it."""
    return {"row": [json.dumps({MISTAKE: str(error)})]}


def check_cluster(cluster: ClusterConfig | None) -> None:
    """Refuse a cluster that is not there, before anything is computed.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    if cluster is not None:
        _join(cluster)


def rows_of(
    cluster: ClusterConfig, work: Work, chunks: Sequence[Any], gpus_each: int
) -> Iterator[Any]:
    """The rows of all chunks, those of one after the other, in the order in which they are done.

    Args:
        chunks: What `work` takes, in JSON's types.
        gpus_each: Of a replica, where the cluster has GPUs and `cluster.gpus` is null.

    Raises:
        UserError: the work cannot be done, whoever does it.
    """
    if not chunks:
        return
    ray = _join(cluster)
    gpus = cluster.gpus
    if gpus is None:
        gpus = gpus_each if ray.cluster_resources().get("GPU") else 0
    place = {"num_gpus": gpus} if gpus else {"num_cpus": cluster.cores}
    least = min(cluster.min, len(chunks))
    made = ray.data.from_items(
        [{"chunk": json.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks)
    ).map_batches(
        Replica,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=max(least, min(cluster.max, len(chunks))),
            max_tasks_in_flight_per_actor=IN_HAND,
        ),
        **place,
    )
    for batch in made.iter_batches(batch_size=None, prefetch_batches=0):
        for row in map(json.loads, batch["row"]):
            if MISTAKE in row:
                raise UserError(row[MISTAKE])
            yield row


def _join(cluster: ClusterConfig) -> Any:
    """Ray, connected to the cluster."""
    try:
        ray: Any = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise UserError(
            "cluster=ray needs Ray, which is not installed: `pip install 'rankdistill[cluster]'`."
        ) from error
    # Of a cluster that is started here; Ray would report to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for part in ("progress", "execution.streaming_executor"):  # that there are none, that it ended
        logging.getLogger(f"ray.data._internal.{part}").setLevel(logging.ERROR)
    if not ray.is_initialized():
        try:
            started_here = {} if cluster.address else {"include_dashboard": False}
            ray.init(cluster.address, log_to_driver=False, logging_level="error", **started_here)
        except ConnectionError as error:
            raise UserError(
                f"There is no Ray cluster at cluster.address={cluster.address}: start one with "
                "`ray start --head`, or set cluster.address=null for one on this machine alone."
            ) from error
    return ray
