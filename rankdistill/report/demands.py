"""`demands.parquet`: whether each verified answer follows each of its demands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdistill.evaluate.verified import DemandRow

DEMANDS = "demands.parquet"
_COLUMNS = {
    "arm": "string",
    "prompt_id": "string",
    "cluster": "string",
    "kind": "string",
    "side": "string",
    "group": "string",
    "trained": "bool",
    "answer": "int64",
    "followed": "float64",
    "opposite": "float64",
    "tokens": "int64",
    "weight": "float64",
}
"""Their types are given, since a column that has nothing but nulls does not tell its own."""


def write_demands(rows: Sequence[DemandRow], folder: Path) -> None:
    """One row per demand and answer of every arm, from which all figures can be computed again.

    Nothing is written where nothing was verified.
    """
    if not rows:
        return
    # Reports are also made again from metrics.json alone, which needs no `datasets`.
    from datasets import Dataset, Features, Value

    features = Features({name: Value(kind) for name, kind in _COLUMNS.items()})
    table = Dataset.from_list([row.as_dict() for row in rows], features=features)
    table.to_parquet(folder / DEMANDS)
