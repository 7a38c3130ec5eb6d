"""What became of the figures of evaluation suites in training, on the same items, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.compare.figures import measured_alike
from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.evaluate.items import change, over_seeds
from rankdistill.report.suite_items import SUITE_ITEMS, read_suite_items
from rankdistill.report.table import Row, interval_cell, points, signed
from rankdistill.statistics import Interval

Changes = Mapping[str, Mapping[str, Interval]]
"""By `suite.figure` and label: the trained students minus those before."""


def suite_changes(objectives: Sequence[ObjectiveRuns]) -> dict[str, dict[str, Interval]]:
    """Of the suites that all runs measured alike, as far as their folders hold the items.

    A seed's students are compared on the same items, of which all seeds have the same; so the
    items are resampled, of all seeds together. The interval speaks of these trained students.

    Raises:
        UserError: a file of items is another one.
    """
    runs = [run for objective in objectives for run in objective.runs]
    if not all((run.folder / SUITE_ITEMS).is_file() for run in runs):
        return {}
    suites = [name for name, _ in measured_alike(runs)]
    found: dict[str, dict[str, Interval]] = {}
    for objective in objectives:
        items = [read_suite_items(run.folder / SUITE_ITEMS) for run in objective.runs]
        roles = [(run.metrics["trained"], run.metrics["baseline"]) for run in objective.runs]
        for suite in suites:
            for key in items[0].get(suite, {}):
                of = [own.get(suite, {}).get(key, {}) for own in items]
                if not all(set(pair) <= own.keys() for pair, own in zip(roles, of, strict=True)):
                    continue
                after, before = (
                    over_seeds([own[pair[side]] for pair, own in zip(roles, of, strict=True)])
                    for side in (0, 1)
                )
                if (interval := change(after, before)) is not None:
                    found.setdefault(f"{suite}.{key}", {})[objective.label] = interval
    return found


def change_rows(changes: Changes, rows: Sequence[Any], labels: Sequence[str]) -> dict[str, Row]:
    """A row of changes by the key of the figure's row.

    Args:
        changes: As `suite_changes` has them.
        rows: Of the figures, `compare.figures.suite_rows`.
        labels: The columns.
    """
    found = {}
    for row in rows:
        if of := changes.get(row.key):
            text = points if row.share else signed
            unit = " in points of 100" if row.share else ""
            told = (
                f"After minus before training{unit}, on the same items, which the 95 % interval "
                "resamples, of all seeds together; bold where it excludes 0."
            )
            intervals = [of.get(label) for label in labels]
            cells = [interval_cell(text, 0.0)(one and vars(one)) for one in intervals]
            found[row.key] = Row(f"{row.key}.change", f"{row.title}, change", told, cells)
    return found


def change_columns(changes: Changes) -> list[str]:
    """Of `results.csv`."""
    return [f"{key}.change{part}" for key in changes for part in ("", "_low", "_high")]


def change_values(changes: Changes, label: str) -> dict[str, float | None]:
    """Of these columns."""
    values: dict[str, float | None] = {}
    for key, of in changes.items():
        if one := of.get(label):
            name = f"{key}.change"
            values |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
    return values
