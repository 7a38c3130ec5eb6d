"""Removal of the store's own folders: nothing else goes, and no link is followed.

A folder is first renamed to ``.trash/<key>.<pid>-<number>``, so that nobody ever sees a part of it.
RANKDISTILL_HOME may be any folder, the working directory or a home folder too, and others may write
into a shared one. So a name tells what is the store's, and what has another name stays.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.store.identity import KEY_PATTERN, is_key

TRASH = ".trash"
EARLIER_TRASH = "trash"
"""What earlier versions renamed folders to; a person's own folder is often called so."""
_DOOMED = re.compile(rf"{KEY_PATTERN}\.[0-9]+-[0-9]+")
_serial = itertools.count()


def is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and no link to one."""
    with suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def folders_named(parent: Path, form: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """The folders in `parent` whose whole name has a form, with the match; links are none."""
    for path in list(parent.iterdir()) if parent.is_dir() else ():
        match = re.fullmatch(form, path.name)
        if match is not None and is_folder(path):
            yield path, match


def is_running(pid: int) -> bool:
    """Whether this machine has a process with this id."""
    with suppress(PermissionError):  # it is another user's
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def refuse_link(place: Path) -> None:
    """UserError where a link stands in the place of a folder that files are removed from."""
    if place.is_symlink():
        raise UserError(
            f"{place} is a link, and the store removes files only in folders of its own: remove "
            "the link, then the same command goes on."
        )


def check_not_removed(path: Path, root: Path) -> None:
    """UserError for a path in an output that is no longer there: somebody cleaned up meanwhile."""
    with suppress(ValueError):
        [key, *_] = path.relative_to(root / "outputs").parts
        if is_key(key) and not os.path.lexists(root / "outputs" / key):
            raise UserError(
                f"The output {key} was removed from the store {root} while it was in use: run the "
                "same command again, which makes it anew."
            )


def is_doomed(name: str) -> bool:
    """Whether it is the name of a folder that is being removed, or whose removal was killed."""
    return _DOOMED.fullmatch(name) is not None


def remove_folder(folder: Path, root: Path) -> None:
    """Removes a folder that has a key's name; anything else in its place stays, a link too.

    What an earlier removal left behind when it was killed goes with it.

    Args:
        root: The store's folder, for its trash. Where that is a link, another user's or on another
            file system, the folder is renamed and removed where it stands.
    """
    if not is_key(folder.name) or not is_folder(folder):
        return
    if not _removed_through_trash(folder, root / TRASH) and is_folder(folder):
        with _opened(folder.parent) as parent:
            _remove_through(folder, parent)
    with suppress(OSError), _own(root / EARLIER_TRASH) as earlier:
        _empty(earlier)


def _removed_through_trash(folder: Path, trash: Path) -> bool:
    with suppress(OSError):
        trash.mkdir(mode=0o700, exist_ok=True)
        with _own(trash) as place:
            _remove_through(folder, place)
            return True
    return False


@contextmanager
def _own(folder: Path) -> Iterator[int]:
    """Opens a folder of this user; OSError where it is a link or someone else's."""
    with _opened(folder, os.O_NOFOLLOW) as place:
        if os.fstat(place).st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to another user")
        yield place


@contextmanager
def _opened(folder: Path, flags: int = 0) -> Iterator[int]:
    """A descriptor, which stays this folder's even if a link takes its name meanwhile."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        yield place
    finally:
        os.close(place)


def _remove_through(folder: Path, place: int) -> None:
    """Renames a folder into the folder `place`, and removes what is to be removed there."""
    taken = set(os.listdir(place))
    names = (f"{folder.name}.{os.getpid()}-{number}" for number in _serial)
    # In a container every process may have the same id, so one that was killed may have used it.
    os.rename(folder, next(name for name in names if name not in taken), dst_dir_fd=place)
    _empty(place)


def _empty(place: int) -> None:
    for name in filter(is_doomed, os.listdir(place)):
        with suppress(OSError):  # another process may remove it at the same time
            if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=place, ignore_errors=True)
