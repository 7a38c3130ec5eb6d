"""One output's rows, made by several processes, of one machine or of several with a common folder.

The rows are cut into chunks. A process takes a chunk by a file lock, appends its rows to shards of
its own, and marks the chunk as done; of a process that dies the lock is gone, and another one makes
what is missing of its chunk. The first process puts all rows into their order.

In the scratch folder of the output::

    shared/claims/<first>-<end>.lock      held (flock) by who makes the chunk
    shared/done/<first>-<end>             all of its rows are there
    shared/rows-<host>-<process>-<rank>/  shards of one process
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.distributed import rank
from rankdistill.store.files import write_atomically
from rankdistill.store.locks import held_at_once
from rankdistill.store.outputs import Partial
from rankdistill.store.sequences import LazyRows
from rankdistill.store.shards import Shards, become_columns, shard_files

FOLDER = "shared"
POLL_SECONDS = 0.2
_TRIES = 10
Make = Callable[[Sequence[int], Sequence[int]], Iterable[Mapping[str, Any]]]
Row = Mapping[str, Any]
Chunk = tuple[Sequence[int], Sequence[int]]
"""Its places, and those of them without a row."""


def was_shared(partial: Partial) -> bool:
    """Whether an earlier attempt, of several processes, left rows that only this module reads."""
    return (partial.scratch / FOLDER).is_dir()


def share(
    partial: Partial,
    names: Sequence[str],
    at_once: int,
    make: Make,
    finished: Callable[[Any], Row] = lambda row: row,
    advance: Callable[[int], object] = lambda made: None,
) -> None:
    """Makes one row for each name, together with the other processes that call this.

    In the first process all rows are in the partial's shards when it returns, in the order of
    `names`; in the others what is left is held by somebody else.

    Args:
        names: The rows' `prompt_id`s, the same in every process, each once.
        at_once: Rows of a chunk.
        make: (places of a chunk, those of them without a row) -> rows of the latter, as they are
            finished.
        finished: What the first process makes of each row before it is put in order.
        advance: Told how many rows this process has made.
    """
    chunks, folder = _chunks(names, at_once), partial.scratch / FOLDER
    if not partial.writable:
        try:
            _work(partial, names, chunks, make, advance)
        except FileNotFoundError:
            if partial.path.is_dir():
                raise
        return  # where the first process has published meanwhile, nothing is left to do
    _set_aside(partial.path / "rows", folder)
    rows = None
    while rows is None:
        _work(partial, names, chunks, make, advance)
        rows = _gathered(folder, names, chunks)
    partial.shards().put(map(finished, rows))


def collect(
    partial: Partial,
    names: Sequence[str],
    at_once: int,
    make: Callable[[list[Chunk]], Iterable[Row]],
    finished: Callable[[Any], Row] = lambda row: row,
    advance: Callable[[int], object] = lambda made: None,
) -> None:
    """As `share`, where this process alone writes what others make for it in any order.

    Args:
        make: (every chunk that lacks rows) -> those rows.
    """
    folder = partial.scratch / FOLDER
    _set_aside(partial.path / "rows", folder)
    mine, made = Shards(_own_folder(folder)), _made(folder)
    advance(len(made.intersection(names)))
    chunks = _chunks(names, at_once)
    left: list[Chunk] = [(one, [i for i in one if names[i] not in made]) for one in chunks]
    for row in make([(chunk, places) for chunk, places in left if places]):
        mine.append([row])
        advance(1)
    rows = _gathered(folder, names, chunks)
    if rows is None:
        raise RuntimeError("not every row was made")
    partial.shards().put(map(finished, rows))


def _chunks(names: Sequence[str], at_once: int) -> list[range]:
    return [range(i, min(i + at_once, len(names))) for i in range(0, len(names), at_once)]


def _own_folder(folder: Path) -> Path:
    return folder / f"rows-{socket.gethostname()}-{os.getpid()}-{rank()}"


def _work(
    partial: Partial, names: Sequence[str], chunks: Sequence[range], make: Make, advance: Any
) -> None:
    folder = partial.scratch / FOLDER
    _require(partial)
    mine = Shards(_own_folder(folder))
    made = _made(folder)
    for chunk, others_began in _taken(partial, folder, chunks):
        if others_began:
            made = _made(folder)
        left = [place for place in chunk if names[place] not in made]
        for row in make(chunk, left) if left else ():
            mine.append([row])
            advance(1)


def _require(partial: Partial) -> None:
    """FileNotFoundError: the output is made, or what is in the making was removed."""
    if not partial.path.is_dir():
        raise FileNotFoundError(partial.path)


def _taken(partial: Partial, folder: Path, chunks: Sequence[range]) -> Iterator[tuple[range, bool]]:
    """The chunks that this process makes, each locked until the next is asked for, and whether
    another process began it; ends when all are done."""
    (folder / "done").mkdir(exist_ok=True)
    while left := _left(folder, chunks):
        held = False
        for chunk in left:
            _require(partial)
            done = _done(folder, chunk)
            claim = folder / "claims" / f"{done.name}.lock"
            began = claim.exists()
            with held_at_once(claim) as free:
                if free and not done.exists():
                    yield chunk, began
                    write_atomically(done, b"", durable=False)
                held = held or not free
        if held:
            time.sleep(POLL_SECONDS)


def _left(folder: Path, chunks: Sequence[range]) -> list[range]:
    done = set(os.listdir(folder / "done"))
    return [chunk for chunk in chunks if _done(folder, chunk).name not in done]


def _done(folder: Path, chunk: range) -> Path:
    return folder / "done" / f"{chunk.start}-{chunk.stop}"


def _gathered(folder: Path, names: Sequence[str], chunks: Sequence[range]) -> Iterator[Any] | None:
    """All rows in order; None where some are missing, whose chunks are then to be made again."""
    by_name: dict[str, tuple[LazyRows, int]] = {}
    for place in folder.glob("rows-*"):  # whose rows are then read by their places, in any order
        become_columns(place)
    for rows in _of_processes(folder):
        by_name |= {name: (rows, place) for place, name in enumerate(rows.values("prompt_id"))}
    missing = [chunk for chunk in chunks if any(names[place] not in by_name for place in chunk)]
    for chunk in missing:  # it was marked, and the machine lost its power before the rows were kept
        _done(folder, chunk).unlink(missing_ok=True)
    if missing:
        return None
    places = map(by_name.__getitem__, names)
    return (rows[place] for rows, place in places)


def _made(folder: Path) -> set[str]:
    """The names of the rows that are there."""
    tries = _TRIES
    while True:
        try:
            return {name for rows in _of_processes(folder) for name in rows.values("prompt_id")}
        except FileNotFoundError:  # another process has just merged some of its shards
            tries -= 1
            if not tries or not folder.is_dir():
                raise


def _of_processes(folder: Path) -> Iterator[LazyRows]:
    """The rows of every process, as they are by now."""
    for place in sorted(folder.glob("rows-*")):
        yield Shards(place, writable=False).rows()


def _set_aside(rows: Path, folder: Path) -> None:
    """Rows of an attempt of one process, or of one that was killed while it put all in order."""
    folder.mkdir(parents=True, exist_ok=True)
    if shard_files(rows):
        number = len(list(folder.glob("rows--earlier-*")))
        os.rename(rows, folder / f"rows--earlier-{number}")
