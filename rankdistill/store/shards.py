"""Rows that survive a kill: each `append` is one JSONL file that is complete or absent.

A shard is ``<number>-<16 hex digits of the SHA-256 of its bytes>.jsonl``, so it can be verified
without anything else. Only a finished shard ever has such a name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.store.files import write_atomically

log = logging.getLogger("rankdistill.store")

DIGEST_DIGITS = 16
_SHARD = re.compile(rf"(\d{{6,}})-([0-9a-f]{{{DIGEST_DIGITS}}})\.jsonl")


class Shards:
    """The rows of one name in a `Partial`. One process writes; other ranks may read.

    Opening it verifies every shard and removes the ones that are truncated or corrupt (one line in
    the log each), so `rows()` tells what is there and `make` adds what is missing.
    """

    def __init__(self, folder: Path, *, writable: bool = True) -> None:
        self.folder = folder
        self._writable = writable
        if writable:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_damaged()
        self._taken = {number_of(path) for path in shard_files(folder)}

    def rows(self) -> list[dict[str, Any]]:
        """All rows of valid shards: shards in order, rows in the order of their `append`."""
        rows: list[dict[str, Any]] = []
        for path in shard_files(self.folder):
            data = path.read_bytes()
            if is_intact(path, data):
                rows.extend(parse(data))
        return rows

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows for good: when it returns they are on the disk, whatever happens next.

        They take the place of the first shard that was dropped, if there is one, so batches that
        are made again in the same order stand where they stood. No rows: nothing happens.

        Raises:
            RuntimeError: this process does not hold the output's lock (a rank above 0).
        """
        if not self._writable:
            raise RuntimeError(f"only rank 0 appends rows, and {self.folder} is another process's")
        if not rows:
            return
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
        number = next(n for n in range(len(self._taken) + 1) if n not in self._taken)
        write_atomically(self.folder / f"{number:06d}-{digest(data)}.jsonl", data)
        self._taken.add(number)

    def _drop_damaged(self) -> None:
        for path in shard_files(self.folder):
            if not is_intact(path, path.read_bytes()):
                path.unlink()
                log.warning("Dropped the damaged shard %s: its rows are made again.", path)


def shard_files(folder: Path) -> list[Path]:
    """The shards in `folder`, in order, damaged ones included."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    return sorted(found, key=lambda path: (number_of(path), path.name))


def is_shard(relative: str) -> bool:
    """Whether a path inside an output, ``rows/000001-….jsonl``, is a shard's."""
    parts = relative.split("/")
    return len(parts) == 2 and _SHARD.fullmatch(parts[1]) is not None


def number_of(path: Path) -> int:
    return int(path.name.split("-")[0])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def is_intact(path: Path, data: bytes) -> bool:
    """Whether `data`, read from the shard `path`, is what was written."""
    match = _SHARD.fullmatch(path.name)
    return match is not None and match[2] == digest(data)


def parse(data: bytes) -> list[dict[str, Any]]:
    """The rows of a shard. Lines end with a newline only: other separators belong to the text."""
    lines = data.decode("utf-8", "surrogatepass").split("\n")
    return [json.loads(line) for line in lines if line]
