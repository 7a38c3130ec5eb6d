"""What is in a store: complete outputs and those in the making."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rankdistill.store import manifest as manifests
from rankdistill.store.attempt import RECORD, maker_text, read_record
from rankdistill.store.files import footprint
from rankdistill.store.identity import is_key
from rankdistill.store.locks import is_held
from rankdistill.store.outputs import Store
from rankdistill.store.removal import is_doomed, is_folder

PLACES = ("outputs", "partial")


@dataclass(frozen=True)
class Entry:
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
    found = [entry_of(store, key) for key in keys(store)]
    return sorted(found, key=lambda entry: (entry.stage, -entry.age_seconds, entry.key))


def keys(store: Store) -> set[str]:
    """The keys of all outputs, complete or in the making."""
    return {path.name for path in _folders(store) if _is_ours(path)}


def foreign(store: Store) -> list[str]:
    """Folders beside the outputs that are not the store's, links included: ``outputs/2026-11-28``.

    RANKDISTILL_HOME may be a project's folder, whose own `outputs/` this is.
    """
    found = (p for p in _folders(store) if not _is_ours(p) and not is_doomed(p.name))
    return sorted(path.relative_to(store.root).as_posix() for path in found)


def entry_of(store: Store, key: str) -> Entry:
    """What the list says about one output."""
    folder, partial = store.output_path(key), store.partial_path(key)
    more_files, more_size = footprint(partial) if partial.is_dir() else (0, 0)
    if is_folder(folder):
        manifest = manifests.read(folder)
        files, size, sizes_right = _sizes(folder, manifest)
        rows = manifest.get("rows") if manifest else None
        return Entry(
            key=key,
            complete=True,
            state="complete" if sizes_right else "damaged",
            note="",
            size=size + more_size,
            files=files + more_files,
            rows=sum(rows.values()) if rows else None,
            age_seconds=_age(manifest, folder),
        )
    state, note = _partial_state(store, key)
    return Entry(
        key=key,
        complete=False,
        state=state,
        note=note,
        size=more_size,
        files=more_files,
        rows=None,
        age_seconds=_since(_modified(partial / RECORD) or _modified(partial)),
    )


def _sizes(folder: Path, manifest: dict[str, Any] | None) -> tuple[int, int, bool]:
    """Number of files, their bytes, and whether these are as the manifest says.

    It names all files, so the folder is walked only where something is not as it says.
    """
    if manifest is not None:
        listed = {**manifest["files"], manifests.NAME: {}}
        sizes = {name: _size(f"{folder}/{name}") for name in listed}
        if all(sizes[name] == written["size"] for name, written in manifest["files"].items()):
            return len(sizes), sum(size or 0 for size in sizes.values()), True
    return *footprint(folder), False


def _partial_state(store: Store, key: str) -> tuple[str, str]:
    record = read_record(store.partial_path(key))
    if is_held(store.lock_path(key)):
        return "building", f"by {maker_text(record)}"
    if record and record.get("state") == "failed":
        return "failed", " ".join(str(record["error"]).split())
    return "interrupted", ""


def _folders(store: Store) -> Iterator[Path]:
    for place in (store.root / name for name in PLACES):
        if place.is_dir():
            yield from (path for path in place.iterdir() if path.is_dir())


def _is_ours(path: Path) -> bool:
    return is_key(path.name) and is_folder(path)


def _age(manifest: dict[str, Any] | None, folder: Path) -> float:
    with suppress(KeyError, ValueError, TypeError):
        finished = datetime.fromisoformat((manifest or {})["finished"])
        return max(0.0, (datetime.now(UTC) - finished).total_seconds())
    return _since(_modified(folder))


def _since(moment: float | None) -> float:
    return max(0.0, time.time() - moment) if moment else 0.0


def _modified(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
