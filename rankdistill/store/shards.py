"""Rows that survive a kill: each `append` is one JSONL file that is complete or absent.

A shard is ``<number>-<16 hex digits of the SHA-256 of its bytes>.jsonl``, so it can be verified
without anything else. Only a finished shard ever has such a name. Every 256 of them are merged into
one, ``<first>-<last>-<digest>.jsonl``, which stands for the ones that it covers: a kill before
these are removed leaves no row twice. So tens of thousands of appends leave some hundred files.

Of a complete output the shards with rows about prompts are Arrow files instead, ``….arrow`` under
the same numbers, see `rankdistill.store.columns`; those that are put all at once are from the
beginning. Outputs of earlier versions have JSONL throughout, and are read as they are.

A stage that keeps tensors writes the same shards with `write_shard`, as ``.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rankdistill.store import columns
from rankdistill.store.files import write_atomically
from rankdistill.store.inputs import check_unchanged
from rankdistill.store.removal import refuse_link
from rankdistill.store.sequences import COLUMNS, StoredRows, opened

log = logging.getLogger("rankdistill.store")

DIGEST_DIGITS = 16
MERGED = 256
"""Shards that become one."""
FLUSH_SECONDS = 1.0
"""Between flushes to the disk, which take longer than a batch where batches are quick."""
ROWS, TENSORS = ".jsonl", ".safetensors"
_SHARD = re.compile(
    rf"(\d{{6,}})(?:-(\d{{6,}}))?-([0-9a-f]{{{DIGEST_DIGITS}}})\.(?:jsonl|arrow|safetensors)"
)
_SETTLED_NS = 100_000_000
"""Age of a file's times from which a change of it shows in them: clocks of kernels tick slowly."""
_whole: dict[Path, tuple[int, ...]] = {}
"""Shards that are known to be as they were written, and what their files' stamps were then."""


class Shards:
    """The rows of one name in a `Partial`. One process writes; other ranks may read.

    Opening it verifies every shard and removes the ones that are truncated or corrupt (one line in
    the log each), so `rows()` tells what is there and `make` adds what is missing.
    """

    def __init__(self, folder: Path, *, writable: bool = True) -> None:
        self.folder = folder
        self._writable = writable
        self._flushed = -math.inf
        if writable:
            refuse_link(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._open()

    def rows(self) -> StoredRows:
        """All rows of valid shards: shards in order, rows in the order of their `append`.

        They stay on the disk, and are those of now, whatever is appended later.
        """
        found: list[Path] = []
        end = 0
        for path in shard_files(self.folder):
            if number_of(path) >= end and is_whole(path):
                found.append(path)
                end = numbers_of(path).stop
        return StoredRows(found)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows for good: when it returns, no kill of the process can take them away.

        If the machine loses its power, the last seconds' may be damaged or gone: made again.
        They take the place of the first shard that was dropped, if there is one, so batches that
        are made again in the same order stand where they stood. No rows: nothing happens.

        Raises:
            RuntimeError: this process does not hold the output's lock (a rank above 0).
            UserError: what the rows were made of was changed, see `rankdistill.store.inputs`.
        """
        self._require_writable()
        if not rows:
            return
        check_unchanged()
        number = self._holes[0] if self._holes else self._end
        self._single[number] = self._write(f"{number:06d}", _lines(rows))
        if self._holes:
            self._holes.pop(0)
        else:
            self._end += 1
        self._merge(number // MERGED)

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Makes these all the rows there are, for a stage that makes them all at once.

        They are taken one by one, so that no more than some 32 MiB of them need be in memory. What
        an earlier attempt, which got as far, has left stays until they are all there.

        Raises:
            RuntimeError: as `append`.
        """
        self._require_writable()
        written = set[Path]()
        left = iter(rows)
        for first in left:
            rest = chain([first], left)
            if columns.is_about_prompts(first):
                suffix, files = COLUMNS, columns.files(rest)
            else:
                suffix, files = ROWS, iter([_lines(rest)])
            for number, data in enumerate(files):
                check_unchanged()
                written.add(self._write(f"{number:06d}", data, suffix))
        for path in shard_files(self.folder):
            if path not in written:
                path.unlink()
        self._open()

    def _require_writable(self) -> None:
        if not self._writable:
            raise RuntimeError(f"only rank 0 writes rows, and {self.folder} is another process's")

    def _open(self) -> None:
        """Drops what is damaged, or merged already, and finds the numbers that are free."""
        self._single: dict[int, Path] = {}
        self._holes: list[int] = []
        self._end = 0
        for path in without_damaged(self.folder):
            numbers = numbers_of(path)
            if numbers.start < self._end:
                path.unlink()
            else:
                self._holes += range(self._end, numbers.start)
                self._end = numbers.stop
                if len(numbers) == 1 and path.suffix == ROWS:
                    self._single[numbers.start] = path
        for block in {number // MERGED for number in self._single}:
            self._merge(block)

    def _merge(self, block: int) -> None:
        """Makes one shard of a block of `MERGED`, if all of them are there."""
        numbers = range(block * MERGED, (block + 1) * MERGED)
        if not all(number in self._single for number in numbers):
            return
        paths = [self._single[number] for number in numbers]
        parts = [path.read_bytes() for path in paths]
        if not all(map(is_intact, paths, parts)):
            return  # damaged since it was written: it is dropped alone when it is next opened
        self._write(f"{numbers[0]:06d}-{numbers[-1]:06d}", b"".join(parts), durable=True)
        for number in numbers:
            self._single.pop(number).unlink()

    def _write(
        self, number: str, data: bytes, suffix: str = ROWS, *, durable: bool = False
    ) -> Path:
        durable = durable or time.monotonic() - self._flushed >= FLUSH_SECONDS
        path = write_shard(self.folder, number, data, suffix, durable=durable)
        if durable:
            self._flushed = time.monotonic()
        return path


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def write_shard(
    folder: Path, number: str, data: bytes, suffix: str = ROWS, *, durable: bool = True
) -> Path:
    """One shard, whole or not at all; its six digits are `number`."""
    path = folder / f"{number}-{digest(data)}{suffix}"
    write_atomically(path, data, durable=durable)
    return path


def without_damaged(folder: Path) -> list[Path]:
    """The intact shards in `folder`, in order; the others are removed, with a line in the log."""
    intact = []
    for path in shard_files(folder):
        if is_whole(path):
            intact.append(path)
        else:
            path.unlink()
            log.warning("Dropped the damaged shard %s: what it held is made again.", path)
    return intact


def shard_files(folder: Path) -> list[Path]:
    """The shards in `folder`, in order, damaged ones included; a merged one before its own."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    return sorted(found, key=in_order)


def in_order(path: Path) -> tuple[int, int, str]:
    """A key that sorts shards: by their first number, then the one that has more first."""
    numbers = numbers_of(path)
    return numbers.start, -len(numbers), path.name


def is_shard(relative: str) -> bool:
    """Whether a path inside an output, ``rows/000001-….jsonl``, is a shard's."""
    parts = relative.split("/")
    return len(parts) == 2 and _SHARD.fullmatch(parts[1]) is not None


def number_of(path: Path) -> int:
    """The first of a shard's numbers."""
    return numbers_of(path).start


def numbers_of(path: Path) -> range:
    """The numbers that a shard stands for: one, or those of the shards that it was merged from."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is no shard")
    first = int(match[1])
    return range(first, int(match[2] or first) + 1)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def is_intact(path: Path, data: bytes) -> bool:
    """Whether `data`, read from the shard `path`, is what was written."""
    match = _SHARD.fullmatch(path.name)
    return match is not None and match[3] == digest(data)


def is_whole(path: Path) -> bool:
    """Whether a shard is what was written; its bytes are read where it may have changed since.

    Raises:
        FileNotFoundError: it is gone.
    """
    match, status = _SHARD.fullmatch(path.name), path.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if match is None or _whole.get(path) == stamp:
        return match is not None
    with open(path, "rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest().startswith(match[3])
    if whole and time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
        _whole[path] = stamp
    return whole


def become_columns(folder: Path) -> None:
    """Makes an Arrow file of each shard of rows about prompts, once no more are appended.

    A kill in between leaves a shard's rows in both forms, of which one counts.
    """
    for path in shard_files(folder):
        if path.suffix == ROWS and is_whole(path):
            rows = opened(path)
            if columns.is_about_prompts(rows[0]):
                number = path.name.rpartition("-")[0]
                write_shard(folder, number, columns.file(rows), COLUMNS)
                path.unlink()
