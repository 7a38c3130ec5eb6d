"""The folder of an export: what we did not write there stays, or the export is refused.

Its `export.json` says what it was made of, so that one that is up to date is not made again, and
lists its files, since nothing but these is removed when another takes its place. Of those that a
person edits, as the card, it has the digests: an edited one stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rankdistill.errors import UserError
from rankdistill.export.source import Source
from rankdistill.models.files import new_folder, stem_in_making
from rankdistill.models.locate import folder_digest
from rankdistill.store.faults import writing
from rankdistill.store.files import files_of, read_json, sha256_of
from rankdistill.store.removal import folders_named, is_folder, is_running

RECORD = "export.json"
FILES = "files"
"""Its list of files; missing in the record of an earlier version."""
WRITTEN = "written"
"""Its SHA-256 of each file that a person may edit; missing in the record of an earlier version."""
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


def keep_edited(to: Path, partial: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Copies what a person has edited in the export in `to` into the one that will take its place.

    Args:
        names: The files that a person may edit.

    Returns:
        The digests of those in `partial` as they were written, for its record, and what was kept.
    """
    written = {name: sha256_of(partial / name) for name in names if (partial / name).is_file()}
    before = (read_record(to) or {}).get(WRITTEN, {})
    edited = [
        name
        for name in written.keys() & before.keys()
        if (to / name).is_file() and sha256_of(to / name) not in (before[name], written[name])
    ]
    for name in edited:
        shutil.copy2(to / name, partial / name)
    return written, sorted(edited)


def read_record(folder: Path) -> dict[str, Any] | None:
    """That of an export; None where there is none, or a file of that name that we did not write."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.keys() - {FILES, WRITTEN} != _KINDS.keys():
        return None
    files, written = record.get(FILES, []), record.get(WRITTEN, {})
    listed = isinstance(files, list) and all(isinstance(name, str) for name in files)
    listed = listed and isinstance(written, dict)
    typed = all(isinstance(record[name], kind) for name, kind in _KINDS.items())
    return record if listed and typed else None


def is_current(record: dict[str, Any], source: Source) -> bool:
    """Whether an export with this record is of the source's model as it is now."""
    made = record_of(source, record["precision"], record["quantize"])
    return made == {name: record[name] for name in made}


@contextmanager
def in_making(to: Path) -> Iterator[Path]:
    """A `new_folder` that says who makes it until it is complete; what killed ones left goes.

    Raises:
        UserError: it cannot be written.
    """
    remove_leftovers(to)
    remedy = "make it writable or make space, or give another --to"
    with writing(to, remedy), new_folder(to) as partial:
        write_maker(partial)
        yield partial
        if is_made_by(partial, os.getpid()):  # an export of a model has its record there by now
            (partial / RECORD).unlink()


def write_maker(folder: Path) -> None:
    """Writes into an export in the making who makes it, in the record's place until it is done."""
    _write(folder, _maker(os.getpid()))


def is_made_by(folder: Path, pid: int) -> bool:
    """Whether it is an export in the making by the process `pid` of this machine."""
    return read_json(folder / RECORD) == _maker(pid)


def _maker(pid: int) -> dict[str, Any]:
    return {"making": {"pid": pid, "host": socket.gethostname()}}


def _write(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def check_place(to: Path) -> None:
    """UserError unless `to` is new, empty, or holds an earlier export and nothing else."""
    _earlier(to)


def clear_place(to: Path) -> None:
    """Removes an earlier export, file by file; the empty folder stays.

    Raises:
        UserError: as `check_place`; making the new export took minutes, and `to` may be another.
    """
    # The record goes last: what a kill leaves is still told to be ours.
    for path in sorted(_earlier(to), key=lambda path: (path == to / RECORD, -len(path.parts))):
        if is_folder(path):
            path.rmdir()
        else:
            path.unlink()


def remove_leftovers(to: Path) -> None:
    """Removes what killed exports to `to` have left beside it, each with a copy of the weights.

    Only of processes of this machine that are no more, and only what says itself that it is an
    export in the making.
    """
    for path, match in folders_named(to.parent, rf"\.{re.escape(stem_in_making(to))}\.([0-9]+)"):
        pid = int(match[1])
        # One of this process's own id was left by another, as happens in containers.
        if is_made_by(path, pid) and (pid == os.getpid() or not is_running(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _earlier(to: Path) -> list[Path]:
    """The files, links and folders of the export that `to` holds; none where it is new or empty."""
    if to.is_symlink():
        raise UserError(
            f"'{to}' is a link, and what it leads to is not replaced: give the folder itself, or "
            "another --to."
        )
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return []
    record = read_record(to)
    if record is None:
        raise UserError(f"'{to}' holds something else than an export: give another --to.")
    if FILES not in record:
        raise UserError(
            f"'{to}' holds an export of an earlier version, which has no list of its files, so "
            "that yours cannot be told from them: move it away, or give another --to."
        )
    found = list(_inside(to))
    if strays := _strays(to, found, record[FILES]):
        raise UserError(
            f"'{to}' holds {min(strays)!r}, which the export there did not write: move it away, "
            "or give another --to."
        )
    return found


def _strays(to: Path, found: Iterable[Path], files: Collection[str]) -> list[str]:
    """What was found in `to` beside the files of an export, and the folders that hold these."""
    own = {RECORD, *files}
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    named = ((path.relative_to(to).as_posix(), path) for path in found)
    return [name for name, path in named if name not in (folders if is_folder(path) else own)]


def _inside(folder: Path) -> Iterator[Path]:
    """All files, links and folders below a folder; no link is followed."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
