"""Folders that a run writes into its run folder, which may be a person's own project.

`.written.json` in the run folder says which files a run wrote there. Those are replaced by the next
run; a person's files beside them stay. A folder is moved aside as a whole where a run would have to
replace anything else.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from rankdistill.models.files import link
from rankdistill.store.files import files_of, json_bytes, write_atomically
from rankdistill.store.removal import is_folder

RECORD = ".written.json"
VERSION = 1

Stamp = list[int]
"""Size in bytes and time of the last change in nanoseconds."""

Files = dict[str, Stamp | None]
"""The files of a folder by their path in it; None where a run was about to write one."""


def replace_folder(source: Path, to: Path) -> Path | None:
    """Puts a copy of the folder `source` in the place of what an earlier run wrote to `to`.

    Weights are hard links where the file system allows.

    Returns:
        Where `to` was moved to, if it was: it is a link or a file, no run wrote it, or one of the
        files that a run wrote there is no longer as it was.
    """
    record = _read(to.parent)
    names = [file.relative_to(source).as_posix() for file in files_of(source)]
    ours, aside = record.pop(to.name, None), None
    if not _is_replaceable(to, ours, names):
        ours, aside = None, _move_aside(to)
    # A kill from here on leaves a record in which all that is there is ours.
    _write(to.parent, {**record, to.name: {**(ours or {}), **dict.fromkeys(names)}})
    _remove(to, ours or {})
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name, to / name)
    _write(to.parent, {**record, to.name: {name: _stamp(to / name) for name in names}})
    return aside


def _is_replaceable(to: Path, ours: Files | None, names: Iterable[str]) -> bool:
    """Whether old files can be removed and new ones written without touching a person's."""
    if not os.path.lexists(to):
        return True
    if not is_folder(to):
        return False
    if ours is None:
        return not any(to.iterdir())
    return all(_is_free(to, name, ours) for name in {*ours, *names})


def _is_free(to: Path, name: str, ours: Files) -> bool:
    """Whether nothing is in a file's place, or what a run wrote there, as it wrote it."""
    for folder in (to / parent for parent in PurePosixPath(name).parents):
        if os.path.lexists(folder) and not is_folder(folder):
            return False  # a link is not followed
    if not os.path.lexists(to / name):
        return True
    stamp = _stamp(to / name)
    return name in ours and stamp is not None and ours[name] in (None, stamp)


def _stamp(file: Path) -> Stamp | None:
    """None where it is no file."""
    with suppress(OSError):
        found = file.lstat()
        if stat.S_ISREG(found.st_mode):
            return [found.st_size, found.st_mtime_ns]
    return None


def _move_aside(place: Path) -> Path:
    """Renames a file, folder or link to the first free `<name>.1`, `<name>.2`, ..."""
    names = (place.with_name(f"{place.name}.{number}") for number in itertools.count(1))
    return place.rename(next(name for name in names if not os.path.lexists(name)))


def _remove(to: Path, names: Iterable[str]) -> None:
    """Removes files, and the folders that are empty without them."""
    folders = set()
    for name in names:
        (to / name).unlink(missing_ok=True)
        folders |= {to / parent for parent in PurePosixPath(name).parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with suppress(OSError):  # it holds a person's file
            folder.rmdir()


def _copy(source: Path, to: Path) -> None:
    if source.suffix == ".safetensors":
        link(source, to)
    else:
        shutil.copy2(source, to)


def _read(run: Path) -> dict[str, Files]:
    """What earlier runs wrote, by folder; what is called like the record and is none goes aside."""
    with suppress(OSError, ValueError):
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        if _is_record(record):
            return record["written"]
    if os.path.lexists(run / RECORD):
        _move_aside(run / RECORD)
    return {}


def _is_record(record: object) -> bool:
    if not isinstance(record, dict) or record.keys() != {"version", "written"}:
        return False
    written = record["written"]
    return (
        record["version"] == VERSION
        and isinstance(written, dict)
        and all(isinstance(files, dict) for files in written.values())
        and all(_is_inside(name) for files in written.values() for name in files)
    )


def _is_inside(name: str) -> bool:
    """Whether a path leads to a file below the folder that it is relative to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _write(run: Path, written: Mapping[str, Files]) -> None:
    data = json_bytes({"version": VERSION, "written": written})
    write_atomically(run / RECORD, data, durable=False)
