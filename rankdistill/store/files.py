"""Durable files: written whole or not at all, and on the disk before anything refers to them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

_TEMPORARY = re.compile(r"\.tmp-[0-9]+-[0-9]+")
_serial = itertools.count()


def home() -> Path:
    """The folder of outputs and converted models: $RANKDISTILL_HOME or ~/.cache/rankdistill.

    The latter is this user's alone where it is made here; a named one may be shared.
    """
    if chosen := os.environ.get("RANKDISTILL_HOME"):
        return Path(chosen).expanduser().absolute()
    usual = Path("~/.cache/rankdistill").expanduser().absolute()
    with suppress(OSError):  # whoever writes there says why that cannot be
        usual.mkdir(mode=0o700, parents=True)
    return usual


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by `data`: a reader, or a kill, sees the old file or the new one.

    `durable` also survives the machine's power; without it only the process's death.
    """
    with replaced(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A new file beside `path` that takes its place, or is deleted where writing it fails.

    `durable` is as of `write_atomically`.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{next(_serial)}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        # On a full disk the half-written file is what the rest of the work needs the space of.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file, durably; a line that a crash has left half stays alone."""
    with open(path, "a+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        begin = file.tell()
        if begin:
            file.seek(-1, os.SEEK_END)
        whole = not begin or file.read(1) == b"\n"
        data = (b"" if whole else b"\n") + line.encode() + b"\n"
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(begin)
            raise


def copy_atomically(source: Path, to: Path) -> None:
    """Copies a file with its times: a reader, or a kill, sees no half of it."""
    with replaced(to, durable=False) as temporary:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
        temporary.chmod(allowed_mode())


def link(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`'s file, or a copy on another file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        copy_atomically(source, target)


def is_inside(name: str) -> bool:
    """Whether a path leads to a file below the folder that it is relative to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def allowed_mode() -> int:
    """The mode of a file that this process makes: what its umask leaves of reading and writing."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def remove_temporaries(folder: Path) -> None:
    """Removes what kills in the middle of `write_atomically` have left in `folder`."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """Indented JSON. numpy's and torch's numbers become numbers; what JSON cannot say, its text:
    what hours of work returned is not lost for the type of one value."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "surrogatepass")


def read_json(file: Path) -> Any:
    """What a file of JSON holds; None where it cannot be read, or a crash left half of it.

    A pipe, which may be another's in a shared store, has no end and is not opened.
    """
    with suppress(OSError, ValueError, RecursionError):
        if file.is_file():
            return json.loads(file.read_bytes())
    return None


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 0) == 0 else str(value)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_and_hash(path: Path) -> dict[str, int | str]:
    """Flushes a file to the disk; its size in bytes and its SHA-256."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted; linked folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def folders_of(folder: Path) -> Iterator[Path]:
    """`folder` and every folder below it, deepest first: the order in which they are flushed."""
    for parent, _, _ in os.walk(folder, topdown=False):
        yield Path(parent)


def footprint(folder: Path) -> tuple[int, int]:
    """Number of files below `folder` and their bytes; what vanishes meanwhile is not counted."""
    count = size = 0
    for path in files_of(folder):
        with suppress(OSError):
            size += path.stat().st_size
            count += 1
    return count, size


def keep_log(log: Path, prefix: str) -> Path:
    """Copies a log into the temporary folder, which all users of the machine share.

    The file is new, so it is no link of another's, and only this user may read it.
    """
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
    with os.fdopen(descriptor, "wb") as file:
        file.write(log.read_bytes())
    return Path(name)
