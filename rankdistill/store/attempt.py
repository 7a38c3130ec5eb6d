"""Who makes an output at the moment, how long it took so far, and how the last attempt ended.

The record is for people, for other ranks and for the seconds in the manifest; mutual exclusion is
the lock's alone. Ranks above 0 wait for rank 0 by polling, never in a collective, whose barriers
time out.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rankdistill.distributed import rank
from rankdistill.errors import UserError
from rankdistill.store.files import json_bytes, read_json, write_atomically
from rankdistill.store.locks import is_held
from rankdistill.store.words import age_text

RECORD = "attempt.json"
BEAT_SECONDS = 2.0
# Ranks of one launch start within this time of each other.
_LAUNCH_SECONDS = 5.0
_process_started = time.monotonic()


def utc_now() -> str:
    """The wall clock, for display only: nothing is decided by it, since it may go backwards."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def launch() -> str:
    """What the ranks of one launch have in common and other launches do not."""
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    parts = [os.environ.get(name, "") for name in names]
    world = os.environ.get("WORLD_SIZE", "")
    if os.environ.get("LOCAL_WORLD_SIZE") == world:
        # On one node the address is 127.0.0.1 on every machine that shares the store.
        parts.append(socket.gethostname())
    return "/".join([*parts, world])


class Attempt:
    """Context of one attempt: writes the record, refreshes it every 2 seconds, notes the end.

    Seconds, attempts and the start continue from the record that is there.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        before = read_record(folder) or {}
        self._folder = folder
        self._seconds_before = float(before.get("seconds", 0.0))
        self._began = time.monotonic()
        self._over = threading.Event()
        self._writing = threading.Lock()
        self.record: dict[str, Any] = {
            **about,
            "state": "building",
            "attempts": int(before.get("attempts", 0)) + 1,
            "started": before.get("started") or utc_now(),
            "process": {"pid": os.getpid(), "host": socket.gethostname()},
            "parent": os.getppid(),
            "launch": launch(),
            "beat": 0,
        }

    @property
    def seconds(self) -> float:
        """Seconds spent, those of earlier attempts included (killed ones up to their last beat)."""
        return self._seconds_before + time.monotonic() - self._began

    def __enter__(self) -> Attempt:
        self._write()
        threading.Thread(target=self._beat, name="store-beat", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if error is None:
            return
        if isinstance(error, Exception):
            self.record |= {"state": "failed", "error": str(error) or type(error).__name__}
        else:
            self.record["state"] = "stopped"
        with suppress(OSError):
            self._write()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError), self._writing:
                if not self._over.is_set():
                    self._write_now()

    def _write(self) -> None:
        with self._writing:
            self._write_now()

    def _write_now(self) -> None:
        self.record["beat"] += 1
        self.record["seconds"] = round(self.seconds, 3)
        self.record["monotonic"] = time.monotonic()
        write_atomically(self._folder / RECORD, json_bytes(self.record), durable=False)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the attempt in `folder`; None where there is none, or a crash left half."""
    record = read_json(folder / RECORD)
    return record if isinstance(record, dict) else None


def maker_text(record: Mapping[str, Any] | None) -> str:
    """``process 1234 on node7``, as far as it is known."""
    process = (record or {}).get("process")
    return f"process {process['pid']} on {process['host']}" if process else "another process"


class RankZero:
    """What a rank above 0 knows about rank 0's attempt at an output, by looking at its record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first_beat = self._last_beat = beat_of(read_record(folder))
        self._moved = time.monotonic()

    def look(self) -> dict[str, Any]:
        """The record of this launch's rank 0; empty while there is none.

        The same launch id may be an older launch's (torchrun's default id is "none"). The record
        is this one's if it has changed since this rank began to look, or was written by a process
        with the same parent since about when this process started.
        """
        record = read_record(self._folder)
        beat = beat_of(record)
        if beat != self._last_beat:
            self._last_beat, self._moved = beat, time.monotonic()
        if record is None or record.get("launch") != launch():
            return {}
        host, parent = record["process"]["host"], record["parent"]
        sibling = (host, parent) == (socket.gethostname(), os.getppid())
        recent = record["monotonic"] >= _process_started - _LAUNCH_SECONDS
        return record if beat != self._first_beat or (sibling and recent) else {}

    @property
    def idle_seconds(self) -> float:
        """Seconds since the record last changed."""
        return time.monotonic() - self._moved


def beat_of(record: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Differs between any two writes of a record."""
    record = record or {}
    return record.get("attempts"), record.get("beat"), record.get("monotonic")


log = logging.getLogger("rankdistill.store")

T = TypeVar("T")

_POLL_SECONDS = 0.05
_SLOWEST_POLL_SECONDS = 1.0
_FIRST_MESSAGE_SECONDS = 5.0


class Follower:
    """Waits for one output; one for all waits of a `Store.output`, as it remembers what it saw."""

    def __init__(self, key: str, partial: Path, lock: Path, patience_seconds: float) -> None:
        self._key = key
        self._partial = partial
        self._lock = lock
        self._patience = patience_seconds
        self._rank_zero = RankZero(partial)

    def wait(self, find: Callable[[], T | None], *, enter: bool) -> T | None:
        """The output when it is complete; with `enter`, None as soon as rank 0 is making it.

        Raises:
            UserError: rank 0 failed at it, or nobody has been making it for too long.
        """
        began = time.monotonic()
        pause, next_message = _POLL_SECONDS, _FIRST_MESSAGE_SECONDS
        while True:
            if (found := find()) is not None:
                return found
            record = self._rank_zero.look()
            if record.get("state") in ("failed", "stopped"):
                why = record.get("error", "it was stopped")
                raise UserError(f"Rank {rank()} stops, because rank 0 failed at {self._key}: {why}")
            if enter and record.get("state") == "building":
                return None
            waited = time.monotonic() - began
            self._give_up(min(waited, self._rank_zero.idle_seconds))
            if waited >= next_message:
                log.info("Rank %d waits for rank 0 to make %s.", rank(), self._key)
                next_message *= 8
            time.sleep(pause)
            pause = min(pause * 1.3, _SLOWEST_POLL_SECONDS)

    def _give_up(self, idle: float) -> None:
        if idle < self._patience or is_held(self._lock):
            return
        root = self._partial.parent.parent
        raise UserError(
            f"Rank {rank()} waited {age_text(idle)} for {self._key} and no process is making it in "
            f"{root}: look for rank 0's error, and with several machines let RANKDISTILL_HOME be a "
            "folder that all of them share."
        )
