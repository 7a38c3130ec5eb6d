"""The data of a task from local files, in the columns that lm-eval's definition of it reads."""

from __future__ import annotations

import bz2
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts.sources import read_rows
from rankdistill.store.inputs import sha256

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Of the file of a split, in the order in which they are looked for."""


def split_files(key: str, path: str, splits: Sequence[str]) -> dict[str, Path]:
    """The file of each split that a task needs.

    Args:
        key: The configuration's, for the error: ``eval.gsm8k.path``.
        path: A file, which is the one split that is needed, or a folder with a file per split.
        splits: The needed ones; the first is the one that is evaluated.

    Raises:
        UserError: there is no such file, or a split has none.
    """
    given = Path(path).expanduser().absolute()
    if given.is_file():
        if len(splits) == 1:
            return {splits[0]: given}
        given = given.parent
    if not given.is_dir():
        raise UserError(f"There is no file or folder '{path}' ({key}): correct the path.")
    found = {split: _of_split(given, split) for split in splits}
    missing = [split for split, file in found.items() if file is None]
    if missing:
        names = " and ".join(f"{split}.jsonl" for split in missing)
        raise UserError(f"The folder '{given}' ({key}) has no {names}: put the data there.")
    return {split: file for split, file in found.items() if file is not None}


def _of_split(folder: Path, split: str) -> Path | None:
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def task_rows(key: str, file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file. UserError: malformed, empty, or a row without one of the columns."""
    if file.name.endswith((".txt", ".txt.bz2")):
        rows = list(hellaswag_text(key, file))
    else:
        rows = [
            dict(_with_columns(key, row, where, columns)) for where, row in read_rows(str(file))
        ]
    if not rows:
        raise UserError(f"The file '{file}' ({key}) has no rows: give one that has.")
    return rows


def _with_columns(
    key: str, row: Mapping[str, Any], where: str, columns: Sequence[str]
) -> Mapping[str, Any]:
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        raise UserError(
            f"There is no '{missing[0]}' in {where} ({key}): its columns must be "
            f"{', '.join(columns)}."
        )
    return row


def write_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> str:
    """The rows as JSON lines, for `datasets`."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(file)


def files_identity(files: Mapping[str, Path]) -> dict[str, str]:
    """What determines the rows of the splits."""
    return {split: sha256(file) for split, file in files.items()}


def hellaswag_text(key: str, file: Path) -> Iterator[dict[str, Any]]:
    """HellaSwag's rows from its text form: six lines per case, "activity: context", the number of
    the right ending, and four endings.

    The text has the two parts of a context joined. lm-eval begins the second with a capital letter,
    so it has to be found again: what follows the last sentence of a context that does not end with
    one. A context that does is left whole, as WikiHow's, which have no second part.

    Raises:
        UserError: the file is not of this form.
    """
    try:
        data = file.read_bytes()
        text = (bz2.decompress(data) if file.suffix == ".bz2" else data).decode("utf-8")
        lines = text.removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"The file '{file}' ({key}) can't be read: {error}.") from error
    for start in range(0, len(lines), 6):
        case = lines[start : start + 6]
        told, label = case[0], case[1] if len(case) == 6 else ""
        activity, colon, context = told.partition(": ")
        if not colon or label not in ("0", "1", "2", "3"):
            raise UserError(
                f"Line {start + 1} of '{file}' ({key}) begins no case of HellaSwag (activity: "
                "context, a number from 0 to 3, four endings): give its text or .jsonl form."
            )
        first, second = _parts(context)
        yield {
            "activity_label": activity,
            "ctx_a": first,
            "ctx_b": second,
            "endings": case[2:],
            "label": label,
        }


def _parts(context: str) -> tuple[str, str]:
    """A context's first part, and the beginning of the sentence that is to be completed."""
    end = max(context.rfind(mark) for mark in (". ", "! ", "? "))
    if end < 0 or context.rstrip().endswith((".", "!", "?")):
        return context, ""
    return context[: end + 1], context[end + 2 :]
