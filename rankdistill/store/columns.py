"""Rows about prompts as an Arrow file, which is read where the disk's pages are mapped.

Token ids are lists of int32; `prompt_id` and `split` are columns of their own, so that rows are
chosen without being read. Everything else of a row is JSON text, scores, kept columns and tool
calls among it: what a row lacks stays missing, where Arrow's structs put a null. Processes that map
one file share its pages. `datasets.Dataset.from_file` opens it as well.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

INDEXED = ("prompt_id", "split")
"""Keys with a column of their own."""
_BATCH = 256


def is_about_prompts(row: Mapping[str, Any]) -> bool:
    """Whether rows like this one are kept as columns; others, such as counts, stay JSON."""
    return "prompt_id" in row


def file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The content of one Arrow file with all the rows."""
    return b"".join(files(rows, math.inf))


def files(rows: Iterable[Mapping[str, Any]], most: float = 32 << 20) -> Iterator[bytes]:
    """The content of Arrow files with all the rows, each made when it is asked for.

    Args:
        most: Bytes of a file behind which the next one begins.
    """
    import pyarrow as pa

    left = iter(rows)
    while batch := list(islice(left, _BATCH)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _schema()) as writer:
            while batch:
                writer.write_batch(_record_batch(batch))
                batch = list(islice(left, _BATCH)) if sink.tell() < most else []
        yield sink.getvalue().to_pybytes()


class Columns(Sequence[dict[str, Any]]):
    """The rows of one Arrow file; a row is made of it when it is asked for."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        path.stat()  # its error names the file, as Arrow's does not
        with pa.memory_map(str(path)) as source:
            self._batches = pa.ipc.open_stream(source).read_all().to_batches()
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))
        self._ids = [_flat(batch.column("token_ids")) for batch in self._batches]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        batch = self._batches[number]
        place = index - self._ends[number] + batch.num_rows
        row = json.loads(batch.column("row")[place].as_py().decode("utf-8", "surrogatepass"))
        if not batch.column("token_ids")[place].is_valid:
            return row
        groups, lists, ids = self._ids[number]
        first = groups[place]
        for at, response in enumerate(row["responses"], start=first):
            response["token_ids"] = ids[lists[at] : lists[at + 1]].tolist()
        return row

    def values(self, key: str) -> list[Any]:
        """The values of a key in all rows, None where a row has none."""
        if key not in INDEXED:
            return [row.get(key) for row in self]
        known = chain.from_iterable(batch.column(key).to_pylist() for batch in self._batches)
        # What its column could not take is in the row.
        return [self[n].get(key) if value is None else value for n, value in enumerate(known)]


@cache
def _schema() -> Any:
    import pyarrow as pa

    ids = pa.list_(pa.list_(pa.int32()))
    texts = [(key, pa.string()) for key in INDEXED]
    return pa.schema([*texts, ("token_ids", ids), ("row", pa.large_binary())])


def _record_batch(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    ids, texts = zip(*map(_parts, rows), strict=True)
    columns = {
        **{key: [_encodable(row.get(key)) for row in rows] for key in INDEXED},
        "token_ids": ids,
        "row": texts,
    }
    return pa.record_batch(columns, schema=_schema())


def _parts(row: Mapping[str, Any]) -> tuple[list[Any] | None, bytes]:
    """The responses' token ids, None where it is not they that a row has, and the rest as JSON."""
    responses = row.get("responses")
    ids = None
    if isinstance(responses, list) and all(
        isinstance(response, Mapping) and isinstance(response.get("token_ids"), list | tuple)
        for response in responses
    ):
        ids = [response["token_ids"] for response in responses]
        row = {**row, "responses": [{**response, "token_ids": None} for response in responses]}
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return ids, text.encode("utf-8", "surrogatepass")


def _encodable(value: Any) -> str | None:
    """The text; None where it is none, or has half a surrogate pair, which Arrow does not take."""
    with suppress(AttributeError, UnicodeEncodeError):
        value.encode()
        return value
    return None


def _flat(column: Any) -> tuple[Any, Any, Any]:
    """Where each row's lists begin, where each list's ids do, and the ids; views of the file."""
    lists = column.values
    return column.offsets.to_numpy(), lists.offsets.to_numpy(), lists.values.to_numpy()
