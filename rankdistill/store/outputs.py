"""The store: make a stage's output once, resume it after a kill, show it only when complete."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankdistill.distributed import rank
from rankdistill.errors import UserError
from rankdistill.store import manifest as manifests
from rankdistill.store.attempt import RECORD, Attempt, Follower, maker_text, read_record, utc_now
from rankdistill.store.faults import explained
from rankdistill.store.files import (
    files_of,
    folders_of,
    home,
    json_bytes,
    remove_temporaries,
    sync_folder,
    write_atomically,
)
from rankdistill.store.identity import canonical, is_key, key_of
from rankdistill.store.inputs import check_unchanged
from rankdistill.store.locks import held, held_at_once
from rankdistill.store.remote import VARIABLE, DamagedRemote, Remote
from rankdistill.store.removal import check_not_removed, is_folder, refuse_link, remove_folder
from rankdistill.store.sequences import StoredRows
from rankdistill.store.shards import Shards, become_columns, in_order, is_shard, is_whole

log = logging.getLogger("rankdistill.store")


@dataclass(frozen=True)
class Output:
    """A complete output of a stage."""

    stage: str
    key: str
    path: Path
    """The folder with what the stage wrote. Not to be written to."""
    manifest: dict[str, Any] = field(repr=False)
    """stage, key, identity, versions, started, finished, seconds, counts, rows, files."""

    def rows(self, name: str = "rows") -> StoredRows:
        """The rows that the stage appended to the shards `name`, in order; none if there are none.

        They stay on the disk until they are asked for.

        Raises:
            UserError: a shard is not what was written, or the output was removed meanwhile.
        """
        inside = (part for part in self.manifest["files"] if part.startswith(f"{name}/"))
        paths = sorted((self.path / part for part in inside if is_shard(part)), key=in_order)
        for path in paths:
            there = path.exists()
            if not there:
                check_not_removed(self.path, self.path.parents[1])
            if not there or not is_whole(path):
                raise UserError(
                    f"The shard {path} is damaged: run the same command again, which makes only "
                    "its rows anew."
                )
        return StoredRows(paths)


@dataclass(frozen=True)
class Partial:
    """An output in the making. What an earlier, killed attempt wrote is still there."""

    path: Path
    """The folder that becomes the output; the same for every attempt."""
    scratch: Path
    """A folder beside it that also survives a kill, but does not become part of the output:
    checkpoints, exported weights. Removed when the output is complete."""
    writable: bool = True
    """False on a rank above 0, which may not append rows."""

    def shards(self, name: str = "rows") -> Shards:
        """The rows `name`: those that are there, and the way to add more."""
        return Shards(self.path / name, writable=self.writable)


def _check_inputs(partial: Partial) -> None:
    """UserError where inputs have changed; what may have been made of both is not continued."""
    try:
        check_unchanged()
    except UserError:
        for place in (partial.path, partial.scratch):
            shutil.rmtree(place, ignore_errors=True)
        raise


Make = Callable[[Partial], Mapping[str, Any] | None]


class Store:
    """Outputs of stages below one folder, which several processes and machines may share.

    Args:
        root: The folder; None is `home()`.
        patience_seconds: How long a rank above 0 waits while no process makes the output.
    """

    def __init__(self, root: Path | None = None, *, patience_seconds: float = 1800.0) -> None:
        self.root = (Path(root) if root is not None else home()).absolute()
        self.patience_seconds = patience_seconds
        self.remote = Remote.of_environment() if rank() == 0 else None

    def output(
        self,
        stage: str,
        identity: Mapping[str, Any],
        make: Make,
        *,
        every_rank: bool = False,
    ) -> Output:
        """The output of `stage` for `identity`: found if complete, otherwise made by `make`.

        One process makes it while others that want it wait. A `make` that raises, or is killed,
        leaves its `Partial` to the next attempt. A complete output whose files are damaged is made
        again, except for its intact shards of rows.

        Args:
            stage: Lower-case name, the first part of the key.
            identity: What determines the content, in JSON's types; see `canonical_json`.
            make: Fills `Partial.path`; what it returns (counts, metrics) goes into the manifest.
            every_rank: Under torchrun: all ranks enter `make`, as training needs, rank 0 publishes
                when its own returns (let `make` end with a barrier if other ranks write files).
                Otherwise ranks above 0 wait, by polling, until the output is there.

        Raises:
            UserError: the folder cannot be written, the disk is full, rank 0 failed, or what the
                identity was computed of has changed.
            TypeError: the identity holds something that JSON cannot say.
        """
        key = key_of(stage, identity)
        with explained(self.root):
            if (output := self._here(key)) is not None:
                self._tidy(key)
                return output
            if rank() > 0:
                return self._follow(key, make if every_rank else None)
            with held(self.lock_path(key), lambda: self._waiting(key)):
                if (output := self._here(key) or self._pulled(key)) is not None:
                    return output
                about = {
                    "stage": stage,
                    "key": key,
                    "identity": canonical(identity),
                }
                return self._build(key, about, make)

    def find(self, key: str) -> Output | None:
        """The output `key` if complete and undamaged (sizes of all files, bytes of shards).

        Where it is not here but in the remote store it is pulled, unless it is being made.

        Raises:
            UserError: the remote store cannot be read.
        """
        if (output := self._here(key)) is not None or self.remote is None or not is_key(key):
            return output
        with held_at_once(self.lock_path(key)) as free:
            return self._here(key) or self._pulled(key) if free else None

    def push(self, key: str) -> int:
        """Uploads a complete output to the remote store; the bytes that were not there.

        Raises:
            UserError: there is no remote store, it cannot be written, or no such output.
        """
        return self._required_remote().push(self.output_path(key))

    def remote_keys(self) -> list[str]:
        """The outputs of the remote store. UserError: there is none, or it cannot be read."""
        return self._required_remote().keys()

    def _required_remote(self) -> Remote:
        if self.remote is None:
            raise UserError(
                f"There is no remote store: set {VARIABLE} to its address, such as "
                "s3://bucket/folder."
            )
        return self.remote

    def _here(self, key: str) -> Output | None:
        folder = self.output_path(key)
        manifest = manifests.read(folder)
        if manifest is None or manifests.damaged_files(folder, manifest, every_byte=False):
            return None
        return Output(manifest["stage"], key, folder, manifest)

    def _pulled(self, key: str) -> Output | None:
        """The output from the remote store; None where that has none. The lock is held."""
        if self.remote is None:
            return None
        folder = self.partial_path(key) / "pulled" / key
        refuse_link(self.partial_path(key))
        shutil.rmtree(folder.parent, ignore_errors=True)
        try:
            if not self.remote.pull(key, folder):
                return None
        except DamagedRemote as error:
            shutil.rmtree(folder.parent, ignore_errors=True)
            log.warning("%s It is made here.", error)
            return None
        if self.output_path(key).exists():  # a damaged one
            remove_folder(self.output_path(key), self.root)
        self._publish(key, folder)
        log.info("Took %s from %s.", key, self.remote.address)
        return self._here(key)

    def _offered(self, key: str) -> None:
        """Pushes what was just made; a fault there costs nobody the output."""
        if self.remote is None:
            return
        try:
            self.remote.push(self.output_path(key))
        except UserError as error:
            log.warning("%s `python -m rankdistill.store push %s` tries again.", error, key)

    def output_path(self, key: str) -> Path:
        return self.root / "outputs" / key

    def partial_path(self, key: str) -> Path:
        """The folder of the output in the making: files/, scratch/ and attempt.json."""
        return self.root / "partial" / key

    def lock_path(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def remove(self, key: str) -> bool:
        """Removes an output, complete or not; False, and all is left, while it is being made.

        A link in its place stays.

        Raises:
            ValueError: the name is no key's, so what is called so is not the store's.
        """
        if not is_key(key):
            raise ValueError(f"{key!r} is no key of a store")
        with explained(self.root), held_at_once(self.lock_path(key)) as free:
            if free:
                remove_folder(self.partial_path(key), self.root)
                remove_folder(self.output_path(key), self.root)
            return free

    def _waiting(self, key: str) -> str:
        maker = maker_text(read_record(self.partial_path(key)))
        return f"Waiting for {key}: {maker} is making it."

    def _build(self, key: str, about: dict[str, Any], make: Make) -> Output:
        """Makes and publishes the output. The lock is held."""
        folder = self.partial_path(key)
        partial = Partial(folder / "files", folder / "scratch")
        for place in (self.output_path(key), folder, partial.path, partial.scratch):
            refuse_link(place)
        if self.output_path(key).exists():
            self._reopen(key)
        with explained(self.root, key, folder):
            partial.path.mkdir(parents=True, exist_ok=True)
            partial.scratch.mkdir(exist_ok=True)
            self._sweep(partial)
            about["versions"] = self._versions(partial)
            with Attempt(folder, about) as attempt, explained(self.root, key, folder):
                counts = dict(make(partial) or {})
                _check_inputs(partial)
                for rows in filter(is_folder, partial.path.iterdir()):
                    become_columns(rows)
                about |= {
                    "started": attempt.record["started"],
                    "finished": utc_now(),
                    "seconds": round(attempt.seconds, 3),
                    "attempts": attempt.record["attempts"],
                    "counts": counts,
                }
                manifest = manifests.seal(partial.path, about)
                self._publish(key, partial.path)
        self._offered(key)
        return Output(about["stage"], key, self.output_path(key), manifest)

    def _versions(self, partial: Partial) -> dict[str, str]:
        """Those of this process, and of the attempts that wrote what is there."""
        kept = any(any(files_of(place)) for place in (partial.path, partial.scratch))
        record = read_record(partial.path.parent) if kept else None
        return manifests.joined((record or {}).get("versions", {}), manifests.versions())

    def _publish(self, key: str, folder: Path) -> None:
        target = self.output_path(key)
        target.parent.mkdir(exist_ok=True)
        os.rename(folder, target)
        sync_folder(target.parent)
        remove_folder(self.partial_path(key), self.root)

    def _tidy(self, key: str) -> None:
        """Removes the checkpoints of a complete output whose maker was killed before it could."""
        if rank() == 0 and self.partial_path(key).exists():
            with suppress(OSError), held_at_once(self.lock_path(key)) as free:
                if free:
                    remove_folder(self.partial_path(key), self.root)

    def _sweep(self, partial: Partial) -> None:
        """Removes what a kill in the middle of a write or of publishing has left."""
        (partial.path / manifests.NAME).unlink(missing_ok=True)
        for place in (partial.path.parent, partial.path):
            for folder in (place, *filter(is_folder, place.iterdir())):
                remove_temporaries(folder)

    def _reopen(self, key: str) -> None:
        """Moves a damaged output back to the making, without what is damaged.

        Damaged shards go alone. If anything else is damaged all other files go, since a stage
        would take a folder of weights that lacks a byte for a finished one.
        """
        folder, partial = self.output_path(key), self.partial_path(key)
        manifest = manifests.read(folder)
        damaged = manifests.damaged_files(folder, manifest, every_byte=False)
        log.warning("%s is damaged (%s): making that part again.", key, ", ".join(damaged[:3]))
        if all(is_shard(name) for name in damaged):
            doomed = [folder / name for name in damaged]
        else:
            doomed = [
                path
                for path in files_of(folder)
                if not is_shard(path.relative_to(folder).as_posix())
            ]
        for path in doomed:
            path.unlink(missing_ok=True)
        for inner in folders_of(folder):
            with suppress(OSError):
                inner.rmdir()
        folder.mkdir(exist_ok=True)
        remove_folder(partial, self.root)
        partial.mkdir(parents=True)
        if manifest is not None:
            account = {
                name: manifest[name] for name in ("started", "seconds", "attempts", "versions")
            }
            write_atomically(partial / RECORD, json_bytes(account))
        os.rename(folder, partial / "files")

    def _follow(self, key: str, make: Make | None) -> Output:
        """Waits for rank 0's output; with `make`, takes part in making it."""
        folder = self.partial_path(key)
        follower = Follower(key, folder, self.lock_path(key), self.patience_seconds)
        if make is not None:
            output = follower.wait(lambda: self._here(key), enter=True)
            if output is not None:
                return output
            make(Partial(folder / "files", folder / "scratch", writable=False))
        output = follower.wait(lambda: self._here(key), enter=False)
        assert output is not None
        return output
