"""`suites.parquet`: what the figures of evaluation suites are made of, item by item.

The paired changes come from it alone, so anybody can compute them again, of any of the items:
`python docs/figures/suites.py RUN/suites.parquet --from 120`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues

SUITE_ITEMS = "suites.parquet"
SuiteItems = Mapping[str, Mapping[str, Mapping[str, ItemValues]]]
"""By suite, figure and model."""
SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("figure", pa.string()),
        ("model", pa.string()),
        ("item", pa.string()),
        ("part", pa.int64()),
        ("sum", pa.float64()),
        ("count", pa.float64()),
    ]
)
"""A figure is the mean over its parts of the sum of `sum` over the sum of `count`."""


def suite_items_file(items: SuiteItems) -> dict[str, bytes]:
    """Name and content; empty where no suite has items."""
    tables = [*_tables(items)]
    if not tables:
        return {}
    content = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), content)
    return {SUITE_ITEMS: content.getvalue()}


def read_suite_items(path: Path) -> dict[str, dict[str, dict[str, ItemValues]]]:
    """What `suite_items_file` wrote. UserError: there is none, or it is another table."""
    try:
        table = pq.read_table(path).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a table of a suite's items ({said}); run it again."
        ) from None
    found: dict[str, dict[str, dict[str, ItemValues]]] = {}
    keys = list(zip(*(table[name].to_pylist() for name in SCHEMA.names[:3]), strict=True))
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        suite, figure, model = keys[start]
        own = table.slice(start, end - start)
        parts = 1 + max(own["part"].to_pylist())
        ids = own["item"].to_pylist()[: len(own) // parts]
        sums, counts = (own[name].to_numpy().reshape(parts, -1) for name in ("sum", "count"))
        of_figure = found.setdefault(suite, {}).setdefault(figure, {})
        of_figure[model] = ItemValues(ids, sums, counts)
    return found


def _tables(items: SuiteItems) -> Iterator[pa.Table]:
    for suite, figures in items.items():
        for figure, models in figures.items():
            for model, values in models.items():
                parts, count = values.sums.shape
                rows = parts * count
                columns = [
                    *([name] * rows for name in (suite, figure, model)),
                    [*values.ids] * parts,
                    np.repeat(np.arange(parts), count),
                    values.sums.ravel(),
                    values.counts.ravel(),
                ]
                arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
                yield pa.Table.from_arrays(arrays, schema=SCHEMA)
