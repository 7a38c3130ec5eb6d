"""Rows that stay on the disk until they are asked for, and what is made of them one by one."""

from __future__ import annotations

import json
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from rankdistill.store.columns import INDEXED, Columns

COLUMNS = ".arrow"
"""The ending of a shard in columns."""


class LazyRows(Sequence[Any]):
    """A sequence that makes its rows when they are asked for; equal to a list with the same."""

    @abstractmethod
    def row(self, index: int) -> Any:
        """The row at a place from 0."""

    def values(self, key: str) -> Sequence[Any]:
        """The values of a key in all rows, None where a row has none."""
        return [row.get(key) for row in self]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Selected(self, range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self.row(place)

    def __iter__(self) -> Iterator[Any]:
        return map(self.row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | LazyRows):
            return NotImplemented
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)} rows"


class StoredRows(LazyRows):
    """The rows of shards, one shard after the other.

    Args:
        shards: Files that are known to be whole.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self._shards = [opened(path) for path in shards]
        self._ends = list(accumulate(map(len, self._shards)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> Any:
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        return self._shards[number][index - start]

    def values(self, key: str) -> Sequence[Any]:
        return [value for shard in self._shards for value in shard.values(key)]


class Lines(Sequence[dict[str, Any]]):
    """The rows of one JSONL file, which are parsed when the first of them is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            self._count = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return _parsed(self._path)[index]

    def values(self, key: str) -> list[Any]:
        """The values of a key in all rows, None where a row has none."""
        return [row.get(key) for row in self]


class Selected(LazyRows):
    """Some rows of others, by their places."""

    def __init__(self, rows: Sequence[Any], places: Iterable[int]) -> None:
        self._rows = rows
        self._places = places if isinstance(places, range) else array("q", places)

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> Any:
        return self._rows[self._places[index]]

    def values(self, key: str) -> Sequence[Any]:
        known = values_of(self._rows, key)
        return [known[place] for place in self._places]


class Mapped(LazyRows):
    """What a function makes of each row, anew each time; it keeps `prompt_id` and `split`."""

    def __init__(self, rows: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Any:
        return self._make(self._rows[index])

    def values(self, key: str) -> Sequence[Any]:
        return values_of(self._rows, key) if key in INDEXED else super().values(key)


def values_of(rows: Sequence[Any], key: str) -> Sequence[Any]:
    """The values of a key in all rows, None where a row has none; stored rows need no reading."""
    return rows.values(key) if isinstance(rows, LazyRows) else [row.get(key) for row in rows]


def places_of(rows: Sequence[Any], key: str, among: Iterable[Any]) -> list[int]:
    """Where the rows stand whose value of a key is one of some."""
    wanted = set(among)
    return [place for place, value in enumerate(values_of(rows, key)) if value in wanted]


def mapped(rows: Sequence[Any], make: Callable[[Any], Any]) -> Sequence[Any]:
    """`make` of every row: a list for rows in memory, else one by one as they are asked for."""
    return Mapped(rows, make) if isinstance(rows, LazyRows) else [make(row) for row in rows]


def selected(rows: Sequence[Any], places: Iterable[int]) -> Sequence[Any]:
    """The rows at some places: a list for rows in memory, else as they are asked for."""
    if isinstance(rows, LazyRows):
        return Selected(rows, places)
    return [rows[place] for place in places]


def opened(path: Path) -> Columns | Lines:
    """The rows of a shard."""
    return Columns(path) if path.suffix == COLUMNS else Lines(path)


@lru_cache(maxsize=4)
def _parsed(path: Path) -> list[dict[str, Any]]:
    return parse(path.read_bytes())


def parse(data: bytes) -> list[dict[str, Any]]:
    """The rows of a JSONL shard. Lines end with a newline only: texts have other separators too."""
    lines = data.decode("utf-8", "surrogatepass").split("\n")
    return [json.loads(line) for line in lines if line]
