"""Files that a person gives: their digests, and whether a run still sees what it was keyed by.

A key is computed when a run begins, and the files behind it are read hours later. So what was
hashed under `watched` is looked at again before rows are kept and before an output is published: a
file that was edited meanwhile ends the run, and never becomes the content of another one's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.store.files import home, read_json, sha256_of, write_atomically


@dataclass(frozen=True)
class _Input:
    stamp: Callable[[], Any]
    digest: Callable[[], str]
    seen: Any
    content: str


_inputs: dict[Path, _Input] | None = None


@contextmanager
def watched() -> Iterator[None]:
    """Until the block ends, what `watch` and `sha256` are asked about must stay as it is."""
    global _inputs
    before, _inputs = _inputs, {}
    try:
        yield
    finally:
        _inputs = before


def read_text(path: str | Path, key: str) -> str:
    """The text of a file that a configuration names as `key`. UserError: it is none in UTF-8."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file '{path}' ({key}) can't be read: give a UTF-8 text.") from error


def watch(path: Path, stamp: Callable[[], Any], digest: Callable[[], str]) -> str:
    """The digest of a file or folder, which is looked at again by `check_unchanged`.

    Args:
        stamp: Differs whenever the content may do; quick.
        digest: Of the content.

    Raises:
        UserError: it cannot be read, or has another digest than before.
    """
    try:
        seen, content = stamp(), digest()
    except OSError as error:
        where = error.filename or path
        raise UserError(f"'{where}' can't be read ({error.strerror}): get access to it.") from error
    if _inputs is not None:
        if path in _inputs and _inputs[path].content != content:
            raise _changed(path)
        _inputs[path] = _Input(stamp, digest, seen, content)
    return content


def check_unchanged() -> None:
    """Hashes again what has another stamp, as a hard link gives it too.

    Raises:
        UserError: the content is another, or gone.
    """
    for path, known in list((_inputs or {}).items()):
        try:
            now = known.stamp()
            if now == known.seen:
                continue
            same = known.digest() == known.content
        except (OSError, UserError):
            now, same = None, False
        if not same:
            raise _changed(path)
        assert _inputs is not None
        _inputs[path] = replace(known, seen=now)


def _changed(path: Path) -> UserError:
    return UserError(
        f"'{path}' was changed while the run was using it, and nothing that may be made of both "
        "its contents is kept: leave it alone, and run the same command again."
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; `watched`, of a link as what it leads to by then."""
    file = path.absolute()
    return watch(file, lambda: stamp_of(file), lambda: remembered_sha256(file))


def stamp_of(file: Path) -> list[int]:
    """Size, mtime and ctime in nanoseconds, inode: no program can set back the ctime, and another
    file in the place of this one has another inode."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, remembered in `home()` by the file's stamp."""
    file = path.resolve()
    known = [str(file), *stamp_of(file)]
    memo = home() / "digests" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"
    # Not there, half written by a process that was killed, or not ours to read.
    with suppress(TypeError, ValueError):
        *remembered, digest = read_json(memo)
        if remembered == known:
            return str(digest)
    digest = sha256_of(file)
    with suppress(OSError):  # a store that is full or read-only costs the time to hash again
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memo, json.dumps([*known, digest]).encode(), durable=False)
    return digest
