"""A ranked set on disk, row by row: what a run wrote, or any file in a known format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts import prompt_id
from rankdistill.prompts.formats import unread_columns
from rankdistill.prompts.odd_rows import OddRow, OddRows
from rankdistill.rank.existing import set_rows
from rankdistill.rank.formats import prompt_column, ranked_row
from rankdistill.store.written import check_run, is_run_folder


def load_groups(path: Path) -> Iterator[dict[str, Any]]:
    """The groups of a run's folder, of its `ranked/`, or of a file; each response has a `score`.

    What a row of another format lacks (token ids, for example) is not made up; rows that cannot be
    read stay out, and a line says how many and why.

    Raises:
        UserError: there is no such set, or its run is not finished.
    """
    folder = path.expanduser()
    if not folder.exists():
        raise UserError(f"There is no ranked set '{path}': give a run's folder, or a file.")
    if folder.name == "ranked" and is_run_folder(folder.parent):
        folder = folder.parent
    if folder.is_dir() and (folder / "ranked").is_dir():
        if is_run_folder(folder):
            check_run(folder, "ranked")
        folder = folder / "ranked"
    odd = OddRows(str(path))
    unpaired: dict[str, dict[str, Any]] = {}
    for where, row, _ in set_rows(str(folder)):
        odd.add_unread(unread_columns(row, prompt_column(row, None, None)), where)
        try:
            messages, responses = ranked_row(row, where)
        except OddRow as error:
            odd.add(error)
            continue
        group = {
            **(row if row.get("messages") and row.get("responses") else {}),
            "prompt_id": str(row.get("prompt_id") or prompt_id(messages)),
            "split": row.get("split") or "train",
            "messages": messages,
            "responses": responses,
        }
        if responses[0].pop("unpaired", False):  # the rows of a prompt are one ranking
            of_one = unpaired.setdefault(prompt_id(messages), {**group, "responses": []})
            of_one["responses"] += responses
            continue
        yield group
    yield from unpaired.values()
    odd.tell()
