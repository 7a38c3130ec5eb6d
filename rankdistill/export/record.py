"""`export.json`: what an export was made of, so that one that is up to date is not made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankdistill.export.source import Source
from rankdistill.models.locate import folder_digest

RECORD = "export.json"
VERSION = 1
"""Counted up when an export of the same model becomes another."""


def record_of(source: Source, precision: str, quantize: str) -> dict[str, Any]:
    """What determines an export's weights."""
    return {
        "version": VERSION,
        "model": folder_digest(source.model),
        "precision": precision,
        "quantize": quantize,
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes it into an export."""
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """That of an export; None where there is none."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
