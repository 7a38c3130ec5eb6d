"""What is in a store: complete outputs and those in the making."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rankdistill.store import manifest as manifests
from rankdistill.store.attempt import RECORD, maker_text, read_record
from rankdistill.store.files import footprint, read_json, write_atomically
from rankdistill.store.identity import is_key
from rankdistill.store.locks import is_held
from rankdistill.store.outputs import Store
from rankdistill.store.removal import is_doomed, is_folder

PLACES = ("outputs", "partial")
KNOWN = ".inventory.json"
_VERSION = 1


class Entry(NamedTuple):
    """One line of the list."""

    key: str
    complete: bool
    state: str
    """``complete``, ``damaged``, ``building``, ``failed`` or ``interrupted``."""
    note: str
    """Who is building it, or why it failed; otherwise empty."""
    size: int
    """Bytes, those of the output in the making and its checkpoints included."""
    files: int
    rows: int | None
    """Rows in shards; None for an output without any, and in the making."""
    age_seconds: float
    """Since it was finished or last worked on; 0 when that lies in the future."""

    @property
    def stage(self) -> str:
        return self.key.rpartition("-")[0]


def entries(store: Store) -> list[Entry]:
    """All outputs, by stage and then the oldest first."""
    known = _Known(store)
    complete, partial = ({n for n, ours in _folders(store, p) if ours} for p in PLACES)
    found = [
        _complete(store, key, known, key in partial)
        if key in complete
        else _in_the_making(store, key)
        for key in complete | partial
    ]
    known.keep()
    return sorted(found, key=lambda entry: (entry.stage, -entry.age_seconds, entry.key))


def keys(store: Store) -> set[str]:
    """The keys of all outputs, complete or in the making."""
    return {name for place in PLACES for name, ours in _folders(store, place) if ours}


def foreign(store: Store) -> list[str]:
    """Folders beside the outputs that are not the store's, links included: ``outputs/2026-11-28``.

    RANKDISTILL_HOME may be a project's folder, whose own `outputs/` this is.
    """
    return sorted(
        f"{place}/{name}"
        for place in PLACES
        for name, ours in _folders(store, place)
        if not ours and not is_doomed(name)
    )


def entry_of(store: Store, key: str) -> Entry:
    """What the list says about one output."""
    if is_folder(store.output_path(key)):
        return _complete(store, key, _Known(store), store.partial_path(key).is_dir())
    return _in_the_making(store, key)


def _complete(store: Store, key: str, known: _Known, has_more: bool) -> Entry:
    """`has_more`: there are checkpoints, whose removal was killed, too."""
    folder = f"{store.root}/outputs/{key}"
    summary = known.of(key)
    files, size, sizes_right = _sizes(folder, summary)
    more_files, more_size = footprint(store.partial_path(key)) if has_more else (0, 0)
    return Entry(
        key=key,
        complete=True,
        state="complete" if sizes_right else "damaged",
        note="",
        size=size + more_size,
        files=files + more_files,
        rows=summary.get("rows"),
        age_seconds=_since(summary.get("finished") or _modified(Path(folder))),
    )


def _in_the_making(store: Store, key: str) -> Entry:
    partial = store.partial_path(key)
    files, size = footprint(partial)
    state, note = _partial_state(store, key)
    return Entry(
        key=key,
        complete=False,
        state=state,
        note=note,
        size=size,
        files=files,
        rows=None,
        age_seconds=_since(_modified(partial / RECORD) or _modified(partial)),
    )


class _Known:
    """What the list needs of each manifest, kept beside the outputs: reading tens of thousands of
    manifests takes seconds. A manifest of another size, inode or time is read again."""

    def __init__(self, store: Store) -> None:
        self.root, self._new = store.root, False
        self._kept: dict[str, Any] = {}
        self._listed: dict[str, Any] = {}
        kept = read_json(self.root / KNOWN)
        if isinstance(kept, dict) and kept.get("version") == _VERSION:
            with suppress(KeyError, TypeError, ValueError):
                self._kept = dict(kept["outputs"])

    def of(self, key: str) -> dict[str, Any]:
        """stamp, finished (seconds since 1970), rows, sizes of files; empty without a manifest."""
        stamp = _stamp(f"{self.root}/outputs/{key}/{manifests.NAME}")
        summary = self._kept.get(key)
        if stamp is None or summary is None or summary["stamp"] != stamp:
            manifest = manifests.read(self.root / "outputs" / key)
            if manifest is None:
                return {}
            summary, self._new = {"stamp": stamp, **_summary(manifest)}, True
        self._listed[key] = summary
        return summary

    def keep(self) -> None:
        """Writes what was read; a store that cannot be written is listed all the same."""
        if self._new:
            data = json.dumps({"version": _VERSION, "outputs": self._listed}).encode()
            with suppress(OSError):
                write_atomically(self.root / KNOWN, data, durable=False)


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    rows, finished = manifest.get("rows"), None
    with suppress(KeyError, ValueError, TypeError):
        finished = datetime.fromisoformat(manifest["finished"]).timestamp()
    sizes = {name: file["size"] for name, file in manifest["files"].items()}
    return {"finished": finished, "rows": sum(rows.values()) if rows else None, "sizes": sizes}


def _sizes(folder: str, summary: dict[str, Any]) -> tuple[int, int, bool]:
    """Number of files, their bytes, and whether these are as the manifest says.

    It names all files, so the folder is walked only where something is not as it says.
    """
    if summary and _has(folder, sizes := summary["sizes"]):
        return len(sizes) + 1, sum(sizes.values()) + summary["stamp"][0], True
    return *footprint(Path(folder)), False


def _has(folder: str, sizes: dict[str, int]) -> bool:
    """Whether the folder has all files of these sizes; in one loop, as of all outputs it takes the
    most of the list's time."""
    try:
        for name, size in sizes.items():
            if os.stat(f"{folder}/{name}").st_size != size:
                return False
    except OSError:
        return False
    return True


def _partial_state(store: Store, key: str) -> tuple[str, str]:
    record = read_record(store.partial_path(key))
    if is_held(store.lock_path(key)):
        return "building", f"by {maker_text(record)}"
    if record and record.get("state") == "failed":
        return "failed", " ".join(str(record["error"]).split())
    return "interrupted", ""


def _folders(store: Store, place: str) -> Iterator[tuple[str, bool]]:
    """The names of the folders in a place, and whether they are outputs of the store."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(store.root / place) as found:
        for one in found:
            if one.is_dir():
                yield one.name, is_key(one.name) and one.is_dir(follow_symlinks=False)


def _since(moment: float | None) -> float:
    return max(0.0, time.time() - moment) if moment else 0.0


def _modified(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_ino, status.st_mtime_ns]
