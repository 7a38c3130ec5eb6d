"""The environment's faults in one sentence: no permission, no space."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.store.files import footprint, replaced
from rankdistill.store.identity import KEY_PATTERN
from rankdistill.store.manifest import check_there
from rankdistill.store.removal import check_not_removed
from rankdistill.store.sequences import opened
from rankdistill.store.shards import TENSORS, is_shard
from rankdistill.store.words import counted, size_text

ANOTHER_FOLDER = "make it writable or make space, or give another run folder with hydra.run.dir=..."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
# What libraries that write in other languages say (safetensors, Arrow) instead of an OSError.
_FULL_WORDS = {
    "No space left on device": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
}
# What torch.save says, which has lost the reason: believed if nothing is left on the disk.
_STREAM_WORDS = ("iostream error", "inline_container", "PytorchStreamWriter", "file write failed")
_NOTHING_LEFT = 1 << 20


@contextmanager
def explained(root: Path, key: str = "", partial: Path | None = None) -> Iterator[None]:
    """Turns "no permission", "disk full", and a file where a folder should be, or a folder or link
    where a file should be, into a UserError that says what to do.

    Args:
        root: The store's folder; only what happens inside it is explained.
        key, partial: The output in the making and its folder, for what a full disk has kept.
    """
    try:
        with reading(root):
            yield
    except UserError:
        raise
    except Exception as error:
        full = _full(error, root)
        if full:
            raise UserError(_full_sentence(root, full, key, partial)) from error
        if isinstance(error, OSError) and _inside(error, root):
            if error.errno in _DENIED:
                raise UserError(_denied_sentence(root, error)) from error
            blocking = next((place for place in (root, *root.parents) if place.is_file()), None)
            if blocking is not None:
                raise UserError(
                    f"The store needs the folder {root}, but {blocking} is a file: set "
                    "RANKDISTILL_HOME to another folder."
                ) from error
            if error.errno in _IN_THE_WAY:
                raise UserError(
                    f"{_in_the_way(error)} is not what the store has in this place "
                    f"({error.strerror}): move it away, or set RANKDISTILL_HOME to another folder."
                ) from error
        raise


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turns an error about a file in an output that was removed meanwhile, whole or in part, into
    a UserError: each library says in words of its own that a file is missing.

    Args:
        root: The store's folder.
    """
    try:
        yield
    except Exception as error:
        outputs = re.compile(rf"{re.escape(str(root))}/outputs/({KEY_PATTERN})\b")
        for one in _behind(error):
            for key in outputs.findall(f"{one} {getattr(one, 'filename', '')}"):
                check_not_removed(root / "outputs" / key, root)
                check_there(root / "outputs" / key, root)
        raise


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and what led to it as a traceback shows it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


@contextmanager
def writable(folder: Path, remedy: str) -> Iterator[None]:
    """Turns "no permission", "disk full" and "not a folder" about `folder` into a UserError.

    Args:
        remedy: What to do, for the end of the sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {*_FULL, *_DENIED, *_IN_THE_WAY}:
            raise
        if not _inside(error, folder):
            raise
        why = os.strerror(error.errno)
        raise UserError(f"The folder {folder} cannot be written ({why}): {remedy}.") from error


@contextmanager
def writing(place: Path, remedy: str) -> Iterator[None]:
    """Turns every fault of a disk in a block that does nothing but write `place` into a UserError.

    Other than in `writable` the error need not name a file, which a full disk's does not.

    Args:
        remedy: What to do, for the end of the sentence.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = _full(error, place)
        if not why and isinstance(error, OSError):
            why = (error.errno and os.strerror(error.errno)) or _first_of(error)
        if not why:
            raise
        raise UserError(f"'{place}' cannot be written ({why}): {remedy}.") from error


def put(place: Path, data: bytes, remedy: str, *, parents: bool = False) -> None:
    """Writes a file where a person asked for it: whole, or what was there before stays.

    What a link leads to is written, and a device or a pipe as it is; a file keeps its mode.

    Args:
        remedy: What to do where it cannot be written, for the end of the sentence.
        parents: The folders above it are made.

    Raises:
        UserError: it cannot be written.
    """
    with writing(place, remedy):
        to = place.expanduser().resolve()
        if parents:
            to.parent.mkdir(parents=True, exist_ok=True)
        if to.exists() and not to.is_file():
            to.write_bytes(data)
            return
        with replaced(to) as new:
            new.write_bytes(data)
            if to.exists():
                shutil.copymode(to, new)


def _first_of(error: OSError) -> str:
    """`shutil.Error` holds a list of what happened to which file."""
    reason = error.args[0] if error.args else str(error)
    return str(reason[0][-1] if isinstance(reason, list) and reason else reason)


def _denied_sentence(root: Path, error: OSError) -> str:
    return (
        f"The store's folder {root} cannot be used by this user ({error.strerror}: "
        f"{error.filename}): get access to it or set RANKDISTILL_HOME to a folder of your own."
    )


def _full_sentence(root: Path, why: str, key: str, partial: Path | None) -> str:
    place = _existing(root)
    mount = next(folder for folder in (place, *place.parents) if os.path.ismount(folder))
    space = shutil.disk_usage(place)
    sentence = (
        f"No space for the store {root} on the file system mounted at {mount} ({why}; "
        f"{size_text(space.free)} of {size_text(space.total)} free)"
    )
    if partial is not None:
        sentence += f": {key} keeps {_kept(partial)} in {partial}, and"
    else:
        sentence += ": nothing that was made is lost, and"
    return (
        f"{sentence} the same command continues from there when there is space "
        "(`python -m rankdistill.store` shows what can be removed)."
    )


def _kept(partial: Path) -> str:
    files, size = footprint(partial)
    shards = rows = 0
    for path in (partial / "files").glob("*/*"):
        with suppress(OSError, ValueError):
            if path.suffix != TENSORS and is_shard(f"{path.parent.name}/{path.name}"):
                rows += len(opened(path))
                shards += 1
    if shards:
        return f"{counted(rows, 'row')} ({counted(shards, 'shard')}, {size_text(size)} in all)"
    return f"{counted(files, 'file')} ({size_text(size)})"


def _full(error: BaseException, root: Path) -> str:
    """How the system says that the disk is full; empty if it is something else."""
    for cause in _behind(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return os.strerror(cause.errno)
        for words, code in _FULL_WORDS.items():
            if words in str(cause):
                return os.strerror(code)
    if any(words in str(error) for words in _STREAM_WORDS):
        with suppress(OSError):
            if shutil.disk_usage(_existing(root)).free < _NOTHING_LEFT:
                return os.strerror(errno.ENOSPC)
    return ""


def _inside(error: OSError, root: Path) -> bool:
    """Whether the error is about the store's folder, a file in it, or a folder above it."""
    if error.filename is None:
        return False
    place = Path(os.fsdecode(error.filename))
    return place == root or root in place.parents or place in root.parents


def _in_the_way(error: OSError) -> Path:
    """What stands in the place that could not be opened, made or renamed to."""
    place = Path(os.fsdecode(error.filename2 or error.filename))
    return next(there for there in (place, *place.parents) if os.path.lexists(there))


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
