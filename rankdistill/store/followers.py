"""How ranks above 0 wait for rank 0: by polling, never in a collective, whose barriers time out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rankdistill.distributed import rank
from rankdistill.errors import UserError
from rankdistill.store.attempt import RankZero
from rankdistill.store.locks import is_held
from rankdistill.store.words import age_text

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
