"""Rows of prompts from a file, the hub or a set of the package, each with where it stands."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from rankdistill.errors import UserError, suggest
from rankdistill.models.hub import commit
from rankdistill.prompts.problems import problems
from rankdistill.store.inputs import sha256

SHIPPED = {"starter": "starter_prompts.jsonl", "everyday": "everyday_prompts.jsonl"}
"""The sets that the package carries, by name: files of `rankdistill.data`."""
GENERATED: Mapping[str, Callable[[], list[dict[str, str]]]] = {"problems": problems}
"""The sets that the package generates, by name, the same rows every time."""
OWN = (*SHIPPED, *GENERATED)
Row = tuple[str, Mapping[str, Any]]
"""Where the row stands, for errors (``line 3 of 'prompts.jsonl'``), and the row."""


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a set of the package, a file, or a hub data set `owner/name[/config][:split]`.

    Raises:
        UserError: there is no such file or data set, it can't be read, or a row is no object.
    """
    if path in GENERATED:
        for number, row in enumerate(GENERATED[path](), start=1):
            yield f"row {number} of '{path}'", row
        return
    if path in SHIPPED:
        shipped = resources.files("rankdistill.data") / SHIPPED[path]
        with resources.as_file(shipped) as file:
            yield from _json_lines(file, path)
        return
    if _is_hub(path):
        yield from _hub_rows(path)
        return
    file = _existing(path)
    if _suffix(file) not in _READERS:
        known = ", ".join(_READERS)
        raise UserError(
            f"The prompt file '{path}' is of no known format: it must end in {known}, or .gz after "
            "one of them."
        )
    try:
        yield from _READERS[_suffix(file)](file, path)
    except UnicodeDecodeError as error:
        raise UserError(f"The prompt file '{path}' is no UTF-8 text: save it as UTF-8.") from error
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The prompt file '{path}' can't be read: {reason}.") from error


def source_identity(path: str, instead: Iterable[str] = OWN) -> dict[str, str]:
    """What determines the rows of `read_rows(path)`, made to be hashed.

    The SHA-256 of a file, or of a set of the package; of a hub data set its commit, configuration
    and split.

    Args:
        instead: Words that may stand in the place of a file or data set, for the error.

    Raises:
        UserError: there is no such file or data set.
    """
    if path in GENERATED:
        return {"sha256": hashlib.sha256(json.dumps(GENERATED[path]()).encode()).hexdigest()}
    if path in SHIPPED:
        shipped = resources.files("rankdistill.data") / SHIPPED[path]
        return {"sha256": hashlib.sha256(shipped.read_bytes()).hexdigest()}
    if not _is_hub(path):
        return {"sha256": sha256(_existing(path))}
    known = [*instead, *_files(Path())]
    return hub_identity(path, known, "" if known else "give a file.")


def hub_identity(path: str, known: Iterable[str] = (), remedy: str = "") -> dict[str, str]:
    """What determines the rows of a hub data set: its commit, configuration and split.

    Args:
        known, remedy: For the error, see `commit`.

    Raises:
        UserError: there is no such data set, or neither hub nor cache has it.
    """
    repository = _hub_parts(path)[0]
    sha = commit(repository, "main", known=known, kind="dataset", remedy=remedy)
    return {"data": path, "commit": sha}


def check_source(path: str, what: str = "prompt file", instead: Iterable[str] = OWN) -> None:
    """Refuse what can't be read, before anything that takes long.

    Args:
        what: For the sentence: what the path was to be.
        instead: Words that may stand in its place, for the error.

    Raises:
        UserError: there is no such file or data set; of a file also: its first row can't be read,
            or it has none.
    """
    if path not in OWN and not _is_hub(path):
        _existing(path, what)
    source_identity(path, instead)
    if not _is_hub(path) and next(read_rows(path), None) is None:
        raise UserError(f"The file '{path}' is empty: write one row per line.")


def _json_lines(file: Path, path: str) -> Iterator[Row]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"line {number} of '{path}'"
                yield where, _object(_json(line, where), where)


def _json_list(file: Path, path: str) -> Iterator[Row]:
    with _opened(file) as opened:
        text = opened.read()
    if not text.strip():
        return
    try:
        rows = _json(text, f"'{path}'")
    except UserError as error:
        if "Extra data" not in str(error):
            raise
        yield from _json_lines(file, path)  # as .jsonl should be called
        return
    if isinstance(rows, Mapping):
        # {"data": [..]}, as some tools wrap them.
        lists = [value for value in rows.values() if isinstance(value, list)]
        if len(lists) == 1 and lists[0] and isinstance(lists[0][0], Mapping) and len(rows) == 1:
            rows = lists[0]
    if not isinstance(rows, list):
        raise UserError(
            f"'{path}' holds no list of rows: one object per line goes into a .jsonl file."
        )
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of '{path}'"
        yield where, _object(row, where)


def _csv(file: Path, path: str) -> Iterator[Row]:
    with _opened(file, newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if _suffix(file) == ".tsv" else ",")
        try:
            for row in reader:
                where = f"line {reader.line_num} of '{path}'"
                if None in row:
                    raise UserError(f"There are more cells than column names in {where}.")
                yield where, row
        except csv.Error as error:
            raise UserError(
                f"Malformed CSV in line {reader.line_num} of '{path}': {error}."
            ) from error


def _parquet(file: Path, path: str) -> Iterator[Row]:
    try:
        batches = pq.ParquetFile(file).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"row {number} of '{path}'", row
    except pa.ArrowException as error:
        raise UserError(f"'{path}' is no readable Parquet file: write it again.") from error


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _hub_rows(path: str) -> Iterator[Row]:
    # Its import takes a second, which files and the starter set don't need.
    from datasets import DatasetDict, load_dataset

    repository, config, split = _hub_parts(path)
    revision = source_identity(path)["commit"]
    try:
        data = load_dataset(repository, config, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The data set '{path}' can't be loaded ({reason}): name its configuration as "
            f"`owner/name/config`, or give a file."
        ) from error
    if not isinstance(data, DatasetDict):
        raise UserError(f"The data set '{path}' has no named splits, so it cannot be read.")
    names = [str(name) for name in data]
    split = split or (names[0] if len(names) == 1 else "train")
    if split not in names:
        raise UserError(
            f"The data set '{repository}' has no split '{split}', add one as "
            f"'{path.partition(':')[0]}:<split>': "
            f"{suggest(split, names)}"
        )
    for number, row in enumerate(data[split], start=1):
        yield f"row {number} of '{path}'", dict(row)


def _hub_parts(path: str) -> tuple[str, str | None, str]:
    """Repository, configuration and split of `owner/name[/config][:split]`."""
    name, _, split = path.partition(":")
    owner, _, rest = name.partition("/")
    repository, _, config = rest.partition("/")
    return f"{owner}/{repository}" if rest else owner, config or None, split


def _is_hub(path: str) -> bool:
    file = Path(path).expanduser()
    local = _suffix(file) in _READERS or file.exists() or path.startswith((".", "/", "~"))
    return not local


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise UserError(f"Malformed JSON in {where}: {error.msg} at {place}.") from error
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, lists in lists
        raise UserError(f"The JSON in {where} is too large or too deep to be read.") from error


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(f'A JSON object is expected in {where}, such as {{"prompt": "..."}}.')
    return row


def _existing(path: str, what: str = "prompt file") -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no {what} '{path}': {_near(file, what)}")
    return file


def _near(file: Path, what: str) -> str:
    """What could have been meant by a file that isn't there."""
    if not file.parent.is_dir():
        return f"its folder '{file.parent}' doesn't exist."
    # What lies in the root folder of a machine is nobody's data.
    root = file.parent.absolute() == Path(file.absolute().anchor)
    names = [] if root else _files(file.parent)
    return suggest(file.name, names) if names else f"'{file.parent}' holds no {what}."


def _files(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if _suffix(entry) in _READERS]


def _suffix(file: Path) -> str:
    """What the file's name ends with, compression aside."""
    return (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()


def _opened(file: Path, newline: str | None = None) -> TextIO:
    """The file as text, decompressed where it ends in .gz."""
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline=newline)
    return file.open(encoding="utf-8-sig", newline=newline)
