"""A ranked set on disk, row by row: what a run wrote, or any file in a known format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts import prompt_id
from rankdistill.prompts.sources import read_rows
from rankdistill.rank.existing import parts
from rankdistill.rank.formats import ranked_row


def load_groups(path: Path) -> Iterator[dict[str, Any]]:
    """The groups of a run's folder, of its `ranked/`, or of a file; each response has a `score`.

    What a row of another format lacks (token ids, for example) is not made up.

    Raises:
        UserError: there is no such set, or a row is not ranked.
    """
    folder = path.expanduser()
    if not folder.exists():
        raise UserError(f"There is no ranked set '{path}': give a run's folder, or a file.")
    if folder.is_dir() and (folder / "ranked").is_dir():
        folder = folder / "ranked"
    for file in parts(folder) if folder.is_dir() else [folder]:
        for where, row in read_rows(str(file)):
            if row.get("messages") and row.get("responses") and "prompt_id" in row:
                yield dict(row)
                continue
            messages, responses = ranked_row(row, where)
            yield {
                "prompt_id": str(row.get("prompt_id") or prompt_id(messages)),
                "split": row.get("split") or "train",
                "messages": messages,
                "responses": responses,
            }
