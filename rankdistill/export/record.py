"""`export.json`: what an export was made of, so that one that is up to date is not made again.

It lists the export's files too, since nothing but these is removed when another takes its place.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from rankdistill.export.source import Source
from rankdistill.models.locate import folder_digest
from rankdistill.store.files import files_of

RECORD = "export.json"
FILES = "files"
"""Its list of files; missing in the record of an earlier version."""
VERSION = 1
"""Counted up when an export of the same model becomes another."""
_KINDS = {"version": int, "model": str, "precision": str, "quantize": str}


def record_of(source: Source, precision: str, quantize: str) -> dict[str, Any]:
    """What determines an export's weights."""
    return {
        "version": VERSION,
        "model": folder_digest(source.model),
        "precision": precision,
        "quantize": quantize,
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes it into an export, with a list of the files that are there."""
    names = {path.relative_to(folder).as_posix() for path in files_of(folder)}
    _write(folder, {**record, FILES: sorted(names - {RECORD})})


def read_record(folder: Path) -> dict[str, Any] | None:
    """That of an export; None where there is none, or a file of that name that we did not write."""
    record = _read(folder)
    if not isinstance(record, dict) or record.keys() - {FILES} != _KINDS.keys():
        return None
    files = record.get(FILES, [])
    listed = isinstance(files, list) and all(isinstance(name, str) for name in files)
    typed = all(isinstance(record[name], kind) for name, kind in _KINDS.items())
    return record if listed and typed else None


def is_current(record: dict[str, Any], source: Source) -> bool:
    """Whether an export with this record is of the source's model as it is now."""
    made = record_of(source, record["precision"], record["quantize"])
    return made == {name: record[name] for name in made}


def write_maker(folder: Path) -> None:
    """Writes into an export in the making who makes it, in the record's place until it is done."""
    _write(folder, _maker(os.getpid()))


def is_made_by(folder: Path, pid: int) -> bool:
    """Whether it is an export in the making by the process `pid` of this machine."""
    return _read(folder) == _maker(pid)


def _maker(pid: int) -> dict[str, Any]:
    return {"making": {"pid": pid, "host": socket.gethostname()}}


def _write(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def _read(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
