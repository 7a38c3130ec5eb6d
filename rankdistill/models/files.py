"""Folders that appear only when complete, and links instead of copies."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankdistill.store.files import sync_folder
from rankdistill.store.removal import refuse_link

LONGEST_STEM = 200
"""Bytes, so that the dots and numbers around it fit into the 255 of a file's name."""


def stem_in_making(to: Path) -> str:
    """What the name of a folder in the making has of `to`'s: all, or a digest of a long one."""
    name = os.fsencode(to.name)
    return to.name if len(name) <= LONGEST_STEM else hashlib.sha256(name).hexdigest()[:16]


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder beside `to` that takes its name when the block ends, and vanishes when it raises.

    `to` may exist only as an empty folder.

    Raises:
        UserError: a link has the name of the folder in the making.
    """
    name = f".{stem_in_making(to)}.{os.getpid()}"
    refuse_link(to.with_name(name))
    # A killed process of the same id may have left it, as happens in containers; or it is yours.
    places = (to.with_name(f"{name}{more}") for more in itertools.chain([""], itertools.count()))
    partial = next(place for place in places if not os.path.lexists(place))
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(to)
        sync_folder(to.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def weights_bytes(folder: str | Path) -> int:
    """Size of the weights of a model's folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
