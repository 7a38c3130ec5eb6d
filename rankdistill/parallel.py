"""Rows by all cores that this process may use."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from multiprocessing import current_process
from typing import Any, TypeVar

from rankdistill.errors import UserError

Given = TypeVar("Given")
Made = TypeVar("Made")

MOST_WORKERS = 8
"""What a single process reads, hands out and writes keeps no more of them busy."""
FEW = 1000
"""Rows for which no worker is started."""
CHUNK = 64
"""Rows that a worker gets at once; it has at most two such chunks."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def in_order(make: Callable[[Given], Made], rows: Iterable[Given]) -> Iterator[Made]:
    """What `make` makes of each row, in their order, by as many processes as there are cores.

    The first `FEW` are made here. The workers that the others start have one thread each, and end
    with the iterator, and with this process however that ends. An error of `rows` is raised when
    what came before it has been given.

    Args:
        make: Depends on its row alone. What it gives, and the row, can be pickled.
        rows: Taken a few chunks ahead of what is asked for.

    Raises:
        UserError: a worker was killed.
    """
    failed: list[Exception] = []
    left = _until_an_error(rows, failed)
    yield from map(make, islice(left, FEW))
    first = list(islice(left, 1))
    count = 1 if current_process().daemon else min(cores(), MOST_WORKERS)
    if first and count > 1:
        yield from _by_workers(make, chain(first, left), count)
    else:
        yield from map(make, chain(first, left))
    if failed:
        raise failed[0]


def end_with_parent() -> None:
    """In a child: it does not outlive the process that started it, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _until_an_error(rows: Iterable[Given], failed: list[Exception]) -> Iterator[Given]:
    try:
        yield from rows
    except Exception as error:
        failed.append(error)


def _by_workers(make: Callable[[Given], Made], rows: Iterator[Given], count: int) -> Iterator[Made]:
    """torch's loader hands a chunk to a worker in the place of an index into a data set."""
    import torch
    from torch.utils.data import DataLoader

    chunks: Any = iter(lambda: list(islice(rows, CHUNK)), [])
    loader = DataLoader(
        _Chunks(make),  # type: ignore[arg-type]
        sampler=chunks,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=count,
        worker_init_fn=_started,
        generator=torch.Generator(),  # else it draws from the one that trainings draw from
    )
    made = iter(loader)
    try:
        for chunk in made:
            yield from chunk
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            "A process that helped to read rows was killed, as the system does where its memory "
            "runs out: free some, or allow fewer cores (`taskset --cpu-list 0,1 ..`)."
        ) from error
    finally:
        del made  # which ends the workers


class _Chunks:
    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __getitem__(self, chunk: list[Any]) -> list[Any]:
        return [self._make(row) for row in chunk]


def _as_it_is(chunk: list[Any]) -> list[Any]:
    return chunk


def _started(number: int) -> None:
    end_with_parent()
