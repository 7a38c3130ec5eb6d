"""The log of a process that has ended, where a person finds it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def keep_log(log: Path, prefix: str) -> Path:
    """Copies a log into the temporary folder, which all users of the machine share.

    The file is new, so it is no link of another's, and only this user may read it.
    """
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
    with os.fdopen(descriptor, "wb") as file:
        file.write(log.read_bytes())
    return Path(name)
