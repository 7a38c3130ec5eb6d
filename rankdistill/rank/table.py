"""The ranked set as a `datasets` table: what people read, and what a run can start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from rankdistill.records import Group


def write_table(groups: Sequence[Group], folder: Path) -> None:
    """One Parquet file per split; `datasets.load_dataset(folder)` reads them as its splits."""
    folder.mkdir(parents=True, exist_ok=True)
    by_split: dict[str, list[Group]] = {}
    for group in groups:
        by_split.setdefault(group["split"], []).append(group)
    for split, rows in by_split.items():
        Dataset.from_list([dict(row) for row in rows]).to_parquet(folder / f"{split}.parquet")
