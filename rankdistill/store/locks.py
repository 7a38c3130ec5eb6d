"""One lock per output: whoever makes, repairs or removes it holds it; readers do not need it.

The lock is the kernel's (flock through filelock), so it is gone the moment its process is, however
that died, and no clock is involved.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rankdistill.errors import UserError

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("rankdistill.store")

POLL_SECONDS = 0.2
# A holder that only looks (the list command) is gone before this: not worth a line.
_UNNOTICED_SECONDS = 1.0


_ANOTHER_HOME = "set RANKDISTILL_HOME to a folder on another one, such as a local disk."


@contextmanager
def _lockable(path: Path, remedy: str) -> Iterator[None]:
    """Network file systems, and some in user space, may have no locks, and each says so by a number
    of its own: ENOLCK, EOPNOTSUPP, EINVAL, EIO, ESTALE."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:  # it was not opened, which is another matter
            raise
        raise UserError(
            f"The file system of {path.parent} cannot lock files ({error.strerror}): {remedy}"
        ) from error


def file_lock(path: Path) -> FileLock:
    """Where the kernel has no flock (ENOSYS), filelock takes a file's existence for the lock, and
    says so in a warning about its own code, of which a person learns nothing."""
    from filelock import FileLock

    warnings.filterwarnings("ignore", "flock not supported", UserWarning)
    return FileLock(path)


@contextmanager
def held(path: Path, waiting: Callable[[], str]) -> Iterator[None]:
    """Holds the lock `path`. Where another process does, waits, and says once for what."""
    from filelock import Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path)
    with _lockable(path, _ANOTHER_HOME):
        try:
            lock.acquire(timeout=_UNNOTICED_SECONDS, poll_interval=POLL_SECONDS / 4)
        except Timeout:
            log.warning(waiting())
            lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held_at_once(path: Path, remedy: str = _ANOTHER_HOME) -> Iterator[bool]:
    """Holds the lock if it is free; False, and nothing held, if another process has it.

    Args:
        remedy: What to do where the file system has no locks, for the end of the sentence.
    """
    from filelock import Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path)
    with _lockable(path, remedy), suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; False where this user may not open it to know, or
    nobody can lock it."""
    if not path.exists():
        return False
    try:
        with held_at_once(path) as free:
            return not free
    except (PermissionError, UserError):
        return False
