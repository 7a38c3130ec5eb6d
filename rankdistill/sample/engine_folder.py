"""The folder of the weights that engines read: whose it is, and what dead processes have left."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from rankdistill.store.files import home
from rankdistill.store.locks import held_at_once
from rankdistill.store.removal import folders_named, is_running


class EngineFolder:
    """A new folder on the stage outputs' file system, so that exported weights are links.

    Its owner holds a lock beside it, which the kernel takes from a process that ends. A process's
    number would not do: containers that share a volume and a host name count their own.
    """

    def __init__(self) -> None:
        parent = home() / "vllm"
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left(parent)
        name = f"{socket.gethostname()}@{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = FileLock(_lock_of(parent / name))
        self._lock.acquire()
        self.path = parent / name
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Removes it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


def _remove_left(parent: Path) -> None:
    """Removes the folders that killed processes have left."""
    host = re.escape(socket.gethostname())
    for folder, match in folders_named(parent, rf"{host}@([0-9]+)-[a-z0-9_]{{8}}"):
        lock = _lock_of(folder)
        if not lock.exists():  # of a version that had none: its process's number is all there is
            if not is_running(int(match[1])):
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with suppress(OSError), held_at_once(lock) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")
