"""What a run writes into its run folder, which may be a person's own project.

`.written.json` in the run folder says which files a run wrote there. Those are replaced by the next
run; a person's files beside them stay. A folder is moved aside as a whole where a run would have to
replace anything else, a file alone.

`metrics.json` tells that a run is whole: it goes first, comes last, and has the SHA-256 of the
files in the folders beside it. A kill in between leaves nothing that reads as a finished run.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from rankdistill.errors import UserError
from rankdistill.store.files import (
    copy_atomically,
    files_of,
    is_inside,
    json_bytes,
    link,
    read_json,
    write_atomically,
)
from rankdistill.store.inputs import remembered_sha256
from rankdistill.store.locks import held_at_once
from rankdistill.store.removal import is_folder

METRICS = "metrics.json"
"""The file of a finished run."""
DIGESTS = "written"
"""Its key with the SHA-256 of every file in the folders that the run wrote, by folder."""
LOCK = ".run.lock"
_BESIDE = ("config.yaml", "answers.jsonl", "demands.parquet", "report.md", "report.html")
_TOP = "."
"""In the record: the files in the run folder itself."""
RECORD = ".written.json"
VERSION = 1

Stamp = list[int]
"""Size in bytes and time of the last change in nanoseconds."""

Files = dict[str, Stamp | None]
"""The files of a folder by their path in it; None where a run was about to write one."""


@contextmanager
def one_run_in(folder: Path) -> Iterator[None]:
    """Holds a run folder's lock: two runs in one would leave the figures of one beside the model
    of the other.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    another = "give another run folder with hydra.run.dir=..."
    with held_at_once(folder / LOCK, another) as free:
        if not free:
            raise UserError(f"Another run is writing to {folder}: wait until it ends, or {another}")
        yield


def begin(run: Path, folders: Collection[str], files: Collection[str]) -> list[tuple[Path, Path]]:
    """Makes a run folder read as unfinished, and removes what this run will not write again.

    Args:
        folders, files: What it will.

    Returns:
        What was in the place of `metrics.json` and is no run's, and where it was moved to.
    """
    record = _read(run)
    top = record.get(_TOP, {})
    moved = []
    if METRICS in top and _is_free(run, METRICS, top):
        (run / METRICS).unlink(missing_ok=True)
    elif os.path.lexists(run / METRICS):
        moved.append((run / METRICS, move_aside(run / METRICS)))
    for name in record.keys() - {_TOP, *folders}:
        _remove_ours(run / name, record[name])
    _remove_ours(run, {name: top[name] for name in top.keys() - set(files)})
    kept = {name: record[name] for name in record.keys() & {_TOP, *folders}}
    _write(run, {**kept, _TOP: {name: top[name] for name in top.keys() & set(files)}})
    return moved


def put_files(run: Path, files: Mapping[str, bytes]) -> list[tuple[Path, Path]]:
    """Writes files into the run folder itself, in their order, each whole or not at all.

    Returns:
        What was in their places and no run wrote, or not so, and where it was moved to.
    """
    record = _read(run)
    top = record.get(_TOP, {})
    moved = [(run / n, move_aside(run / n)) for n in files if not _is_free(run, n, top)]
    _write(run, {**record, _TOP: {**top, **dict.fromkeys(files)}})
    for name, data in files.items():
        write_atomically(run / name, data)
    _write(run, {**record, _TOP: {**top, **{name: _stamp(run / name) for name in files}}})
    return moved


def digests_of(run: Path, folders: Iterable[str]) -> dict[str, dict[str, str]]:
    """The SHA-256 of every file that a run wrote into its folders."""
    record = _read(run)
    return {
        folder: {name: remembered_sha256(run / folder / name) for name in sorted(record[folder])}
        for folder in folders
    }


def check_run(run: Path, *folders: str) -> None:
    """Refuses a run folder that is not of one run.

    Folders of earlier versions, which kept no digests, pass.

    Raises:
        UserError: the run is not finished, or a file in its folders is another than its figures
            are of.
    """
    if not (run / METRICS).is_file():
        if not any((run / begun).exists() for begun in (".hydra", LOCK, RECORD)):
            raise UserError(f"There is no run in '{run}': give the folder of a finished run.")
        raise UserError(
            f"The run in '{run}' is not finished (no {METRICS}): run its command again, it "
            "continues where it stopped."
        )
    with suppress(OSError, ValueError, AttributeError, TypeError):
        written: Any = read_json(run / METRICS).get(DIGESTS) or {}
        for file, digest in (
            (run / folder / name, digest)
            for folder in folders
            for name, digest in written.get(folder, {}).items()
        ):
            if not file.is_file() or remembered_sha256(file) != digest:
                raise UserError(
                    f"'{file}' is not the file that the figures in '{run}' are of: run its command "
                    "again, which takes its stages from the store."
                )


def is_run_folder(folder: Path) -> bool:
    """Whether a run wrote into it, finished or not."""
    return (folder / RECORD).is_file() or (folder / METRICS).is_file()


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
        ours, aside = None, move_aside(to)
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
    for folder in (to / parent for parent in PurePosixPath(name).parents if parent.name):
        if os.path.lexists(folder) and not is_folder(folder):
            return False  # a link is not followed
    if not os.path.lexists(to / name):
        return True
    stamp = _stamp(to / name)
    return name in ours and stamp is not None and ours[name] in (None, stamp)


def _stamp(file: Path) -> Stamp | None:
    """None where it is no file."""
    with suppress(OSError):
        status = file.lstat()
        if stat.S_ISREG(status.st_mode):
            return [status.st_size, status.st_mtime_ns]
    return None


def move_aside(place: Path) -> Path:
    """Renames a file, folder or link to the first free `<name>.1`, `<name>.2`, ..."""
    names = (place.with_name(f"{place.name}.{number}") for number in itertools.count(1))
    return place.rename(next(name for name in names if not os.path.lexists(name)))


def _remove_ours(to: Path, files: Files) -> None:
    """Removes what a run wrote, as far as it is as the run wrote it."""
    if is_folder(to):
        _remove(to, [name for name in files if _is_free(to, name, files)])


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
        copy_atomically(source, to)


def _read(run: Path) -> dict[str, Files]:
    """What earlier runs wrote, by folder; what is called like the record and is none goes aside."""
    record = read_json(run / RECORD)
    if _is_record(record):
        return _with_top(run, record["written"])
    if os.path.lexists(run / RECORD):
        move_aside(run / RECORD)
    return _with_top(run, {})


def _with_top(run: Path, written: dict[str, Files]) -> dict[str, Files]:
    """Earlier versions listed no files of the run folder itself: theirs are ours as well."""
    if _TOP in written or not is_metrics(read_json(run / METRICS)):
        return written
    there: Files = {name: None for name in (METRICS, *_BESIDE) if (run / name).is_file()}
    return {**written, _TOP: there}


def is_metrics(found: object) -> bool:
    """Whether what a file of JSON holds has a run's figures in it."""
    return isinstance(found, dict) and {"format", "recipe", "stages", "models"} <= found.keys()


def _is_record(record: object) -> bool:
    if not isinstance(record, dict) or record.keys() != {"version", "written"}:
        return False
    written = record["written"]
    return (
        record["version"] == VERSION
        and isinstance(written, dict)
        and all(isinstance(files, dict) for files in written.values())
        and all(is_inside(name) for files in written.values() for name in files)
    )


def _write(run: Path, written: Mapping[str, Files]) -> None:
    data = json_bytes({"version": VERSION, "written": written})
    write_atomically(run / RECORD, data, durable=False)
