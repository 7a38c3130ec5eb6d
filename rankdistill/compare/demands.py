"""A comparison's `demands.parquet`: the verified rows of all its runs in one table.

Its verified figures come from this table alone, so anybody can compute them again:
`python docs/figures/demands.py comparison/demands.parquet`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.runs import FinishedRun
from rankdistill.errors import UserError
from rankdistill.evaluate.verified import DEMAND_COLUMNS, DemandRow
from rankdistill.report.answers import DEMANDS

OWN = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in DEMAND_COLUMNS.items()])
"""Of a run's file, as the fields of `DemandRow`."""
WHOSE = pa.schema([("run", pa.string()), ("objective", pa.string()), ("seed", pa.int64())])
"""Which run a row is of: its folder's name, the comparison's label, its seed."""
SCHEMA = pa.schema([*WHOSE, *OWN])


@dataclass(frozen=True)
class RunDemands:
    """The verified rows of one run."""

    run: str
    objective: str
    seed: int
    rows: Sequence[DemandRow]


def gathered(objectives: Sequence[ObjectiveRuns]) -> pa.Table:
    """The rows of all runs; every run has a file, see `missing`.

    Raises:
        UserError: a file is not such a table.
    """
    return pa.concat_tables(
        _labelled(run, objective.label) for objective in objectives for run in objective.runs
    )


def missing(runs: Sequence[FinishedRun]) -> str | None:
    """The sentence why these runs have no verified tables; None: they have, or none was verified.

    Args:
        runs: Of a comparison, see `has_rows`.
    """
    without = [run for run in runs if not has_rows(run)]
    if not without or not any(has_rows(run) or run.metrics.get("verified") for run in runs):
        return None
    names = ", ".join(run.folder.name for run in without[:3])
    more = f" and {len(without) - 3} more" if len(without) > 3 else ""
    return (
        f"No figures of verified demands: {len(without)} of {len(runs)} runs have no {DEMANDS} "
        f"({names}{more}); run them again."
    )


def has_rows(run: FinishedRun) -> bool:
    """Whether the run's folder holds verified rows."""
    return (run.folder / DEMANDS).is_file()


def by_run(table: pa.Table) -> list[RunDemands]:
    """The table's rows, run by run in its order."""
    runs: dict[tuple[str, str, int], list[DemandRow]] = {}
    for row in _rows(table):
        whose = (row.pop("run"), row.pop("objective"), row.pop("seed"))
        runs.setdefault(whose, []).append(DemandRow(**row))
    return [RunDemands(*whose, rows) for whose, rows in runs.items()]


def read(path: Path) -> pa.Table:
    """A comparison's table. UserError: there is none, or it is another one."""
    return _table(path, SCHEMA)


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as its file holds it."""
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def remove_earlier(folder: Path) -> None:
    """Takes away the table of an earlier comparison, where this one has none."""
    path = folder / DEMANDS
    if path.is_file() and _is_ours(path):
        path.unlink()


def _labelled(run: FinishedRun, label: str) -> pa.Table:
    table = _table(run.folder / DEMANDS, OWN)
    # A folder's name need not be UTF-8.
    name = run.folder.name.encode("utf-8", errors="replace").decode()
    whose = [[value] * len(table) for value in (name, label, run.seed)]
    columns = [pa.array(v, field.type) for v, field in zip(whose, WHOSE, strict=True)]
    return pa.Table.from_arrays([*columns, *table.columns], schema=SCHEMA)


def _table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    except (OSError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a table of verified demands ({said}); run it again."
        ) from None


def _rows(table: pa.Table) -> Iterator[dict]:
    for batch in table.to_batches(max_chunksize=50_000):
        yield from batch.to_pylist()


def _is_ours(path: Path) -> bool:
    try:
        return pq.read_schema(path).names == SCHEMA.names
    except (OSError, pa.ArrowException):
        return False
