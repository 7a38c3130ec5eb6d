"""Complete outputs in an object store, shared by machines and people: `RANKDISTILL_REMOTE=s3://...`.

Below the address::

    files/<SHA-256>       the content of a file, once, whichever outputs have it
    outputs/<key>.json    an output's manifest, written last: without it there is no output

So half an upload is nothing that anybody sees, and the next one goes on from it; two who push the
same output disturb nobody. What is pulled is held against its checksums before it becomes an output
of the store. Access is what the object store's own client finds (environment, profile, role):
nothing here holds credentials.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from rankdistill.errors import UserError
from rankdistill.fields import has_credentials
from rankdistill.store import manifest as manifests
from rankdistill.store.files import is_inside, json_bytes, sha256_of, write_atomically
from rankdistill.store.identity import is_key

VARIABLE = "RANKDISTILL_REMOTE"
_OURS = {errno.ENOSPC, errno.EDQUOT}
"""Faults of this machine's disk, which the store explains."""


class RemoteFault(UserError):
    """The object store did not do what it was asked; one sentence."""


class DamagedRemote(RemoteFault):
    """What was pulled is not what was pushed."""


class Remote:
    """The outputs below one address, which fsspec opens: `s3://`, `gs://`, `file://`, `memory://`.

    Raises:
        UserError: no such kind of address, its package is not installed, or credentials in it.
    """

    def __init__(self, address: str) -> None:
        if has_credentials(address):
            raise UserError(
                f"{VARIABLE} has credentials in it: leave them out, and let the object store's "
                "client find them (environment variables, a profile, a role of the machine)."
            )
        from fsspec.core import url_to_fs

        # Listings are not kept: other machines write there meanwhile.
        options = {"auto_mkdir": True} if urlsplit(address).scheme in ("", "file") else {}
        try:
            self._files, self._root = url_to_fs(address, use_listings_cache=False, **options)
        except ImportError as error:
            raise UserError(
                f"{VARIABLE}={address} needs a package that is not installed: "
                "`pip install 'rankdistill[remote]'` has the one for s3://."
            ) from error
        except ValueError as error:
            raise UserError(f"{VARIABLE}={address} is no address: {_first(error)}") from error
        self.address = address

    @classmethod
    def of_environment(cls) -> Remote | None:
        """The one that `RANKDISTILL_REMOTE` names; None where it names none."""
        address = os.environ.get(VARIABLE)
        return cls(address) if address else None

    def keys(self) -> list[str]:
        """The outputs that are there.

        Raises:
            RemoteFault: it cannot be read.
        """
        with self._asked("read"):
            try:
                listed = self._files.ls(f"{self._root}/outputs", detail=False)
            except FileNotFoundError:
                return []
        names = (PurePosixPath(path).name.removesuffix(".json") for path in listed)
        return sorted(filter(is_key, names))

    def push(self, folder: Path) -> int:
        """Uploads a complete output; the bytes that were not there yet.

        Args:
            folder: Of the output, called by its key.

        Raises:
            RemoteFault: it cannot be written.
            UserError: a file of the output is not what was written.
        """
        manifest = manifests.read(folder)
        if manifest is None:
            raise UserError(f"{folder.name} is not complete in {folder.parents[1]}.")
        sent = 0
        with self._asked("written"):
            if self._manifest(folder.name) == manifest:
                return 0
            for name, written in manifest["files"].items():
                place = f"{self._root}/files/{written['sha256']}"
                if self._size(place) == written["size"]:
                    continue
                if sha256_of(folder / name) != written["sha256"]:
                    raise UserError(
                        f"{folder / name} is damaged, so {folder.name} was not pushed: run the "
                        "command that made it again."
                    )
                self._files.put_file(str(folder / name), place)
                sent += written["size"]
            self._files.pipe_file(self._place(folder.name), json_bytes(manifest))
        return sent

    def pull(self, key: str, folder: Path) -> bool:
        """Downloads an output into a folder that is called by its key; False where there is none.

        Raises:
            RemoteFault: it cannot be read, or is not what was pushed.
        """
        with self._asked("read"):
            manifest = self._manifest(key)
            if manifest is None:
                return False
            for name, written in manifest["files"].items():
                to = folder / name
                to.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{self._root}/files/{written['sha256']}", str(to))
                if sha256_of(to) != written["sha256"]:
                    raise DamagedRemote(f"{key} is damaged in {self.address}: {name}.")
        write_atomically(folder / manifests.NAME, json_bytes(manifest))
        return True

    def _manifest(self, key: str) -> dict[str, Any] | None:
        try:
            manifest = json.loads(self._files.cat_file(self._place(key)))
        except FileNotFoundError:
            return None
        if not manifests.is_of(manifest, key) or not all(map(is_inside, manifest["files"])):
            raise DamagedRemote(f"{key} is damaged in {self.address}: its manifest.")
        return manifest

    def _place(self, key: str) -> str:
        return f"{self._root}/outputs/{key}.json"

    def _size(self, place: str) -> int | None:
        try:
            return self._files.info(place)["size"]
        except FileNotFoundError:
            return None

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Whatever a client of an object store raises is one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OURS:
                raise
            raise RemoteFault(
                f"The remote store {self.address} cannot be {what} ({_first(error)}): see to its "
                f"address and your access to it, or unset {VARIABLE}."
            ) from error


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
