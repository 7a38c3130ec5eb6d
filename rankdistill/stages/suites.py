"""The suites of a run on its models, as the block `suites` of `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rankdistill.stages.run import Model, Run
from rankdistill.suites.suite import Measured, Suite


def check_suites(run: Run) -> None:
    """Refuse at start-up what can be known there: a missing package, file or endpoint."""
    for suite in _asked(run).values():
        suite.check(run)


def measure_suites(
    run: Run, models: Mapping[str, Model], labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Every suite's figures of every model; None where no suite is asked for.

    Args:
        models: By their name in the report, in its order.
        labels: Their headings.
    """
    if not run.settings.suites:
        return None
    return {
        name: {
            "version": suite.version,
            "about": suite.about(),
            "models": {
                role: block(labels[role], suite.measure(run, model, labels[role]))
                for role, model in models.items()
            }
            | _others(suite, run),
        }
        for name, suite in _asked(run).items()
    }


def _asked(run: Run) -> dict[str, Suite]:
    return run.settings.suites


def _others(suite: Suite, run: Run) -> dict[str, Any]:
    """What a suite measures that is no model of the run."""
    found = suite.others(run).items()
    return {name: block(name.replace("_", " "), measured) for name, measured in found}


def block(label: str, measured: Measured) -> dict[str, Any]:
    """One model's part of a suite's block in `metrics.json`."""
    figures = {}
    for figure in measured.figures:
        row = asdict(figure)
        figures[row.pop("key")] = row
    return {"label": label, "counts": dict(measured.counts), "figures": figures}
