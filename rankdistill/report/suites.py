"""The parts of the report on evaluation suites, and on each of several sets of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rankdistill.report.run_report import RunReport
from rankdistill.report.table import (
    NOTHING,
    Cell,
    Row,
    direction,
    interval_cell,
    number,
    points,
    share_percent,
    signed,
)
from rankdistill.statistics import paired_difference

Metrics = Mapping[str, Any]


def suite_heads(metrics: Metrics) -> dict[str, str]:
    """Headings of the columns by name: all that any suite measured."""
    return {
        name: model["label"]
        for suite in _suites(metrics).values()
        for name, model in suite["models"].items()
    }


CHANGE = "change"
"""The name of the column that holds the trained model against the one before."""


def suite_columns(metrics: Metrics) -> dict[str, str]:
    """The same, with a column of changes where there are any."""
    changed = any(suite.get("changes") for suite in _suites(metrics).values())
    heads = suite_heads(metrics)
    return {**heads, CHANGE: f"{CHANGE} in points"} if changed else heads


def suite_rows(metrics: Metrics, *, details: bool = True) -> list[Row]:
    """The rows of the table, with a cell for each of `suite_columns`.

    Args:
        details: With the figures that are parts of others.
    """
    names = [name for name in suite_columns(metrics) if name != CHANGE]
    rows = []
    for suite_name, suite in _suites(metrics).items():
        known = {
            key: f for model in suite["models"].values() for key, f in model["figures"].items()
        }
        for key, figure in known.items():
            if figure["detail"] and not details:
                continue
            found = [suite["models"].get(n, {"figures": {}})["figures"].get(key) for n in names]
            text = share_percent if figure["share"] else number
            explanation = f"{figure['meaning']} {suite['about']}."
            cells = [interval_cell(text)(f) if f else Cell(NOTHING) for f in found]
            if CHANGE in suite_columns(metrics):
                minus = points if figure["share"] else signed
                cells.append(interval_cell(minus, 0.0)((suite.get("changes") or {}).get(key)))
            rows.append(Row(f"{suite_name}.{key}", figure["title"], explanation, cells))
    return rows


def suite_headline(metrics: Metrics) -> str:
    """One sentence where nothing else was measured."""
    models = ", ".join(suite_heads(metrics).values())
    return f"{' and '.join(_suites(metrics))} of: {models}."


def suite_changes(metrics: Metrics) -> Iterator[tuple[int, str]]:
    """Of every suite's first figure whether training raised it, lowered it, or neither beyond noise
    (1, -1, 0), and a sentence."""
    baseline, trained = metrics["baseline"], metrics["trained"]
    for suite in _suites(metrics).values():
        found = suite.get("changes") or {}
        if not found:
            continue
        key = next(iter(found))
        models = [suite["models"][name] for name in (baseline, trained)]
        figure, change = models[0]["figures"][key], found[key]
        text, minus = (share_percent, points) if figure["share"] else (number, signed)
        unit = " points" if figure["share"] else ""
        means = (f"{text(of['figures'][key]['mean'])} ({of['label']})" for of in models)
        low, high = change["low"], change["high"]
        interval = "" if low is None else f" [{minus(low)}, {minus(high)}]"
        yield (
            direction(change),
            f"{figure['title']}: {', '.join(means)}: {minus(change['mean'])}{unit}{interval} "
            f"on the same {change['items']} items.",
        )


def suite_cautions(metrics: Metrics) -> Iterator[str]:
    """A sentence for what was set aside."""
    for name, suite in _suites(metrics).items():
        for model in suite["models"].values():
            if count := model["counts"].get("set_aside"):
                what = "item" if count == 1 else "items"
                yield f"{name}, {model['label']}: {count:.0f} {what} set aside and not averaged."


def _suites(metrics: Metrics) -> Mapping[str, Any]:
    return metrics.get("suites") or {}


def figures_by_set(report: RunReport) -> dict[str, Any] | None:
    """By set, since a gain may come from one of them: held-out prompts, both students' mean scores,
    and the difference with its interval.

    None where all prompts are of one set, or nothing was scored.
    """
    models = {model.name: model for model in report.models}
    names = (report.baseline, report.trained)
    groups = report.groups.get(report.trained, [])
    of_prompt = {group["prompt_id"]: group["set"] for group in groups if "set" in group}
    if len(set(of_prompt.values())) < 2 or not all(name in models for name in names):
        return None
    before, after = (models[name].per_prompt for name in names)
    found = {}
    for name in dict.fromkeys(of_prompt.values()):
        shared = [p for p, of in sorted(of_prompt.items()) if of == name and p in before]
        shared = [prompt for prompt in shared if prompt in after]
        if shared:
            a, b = ([scored[p].mean for p in shared] for scored in (after, before))
            found[name] = {
                "prompts": len(shared),
                "baseline": fmean(b),
                "trained": fmean(a),
                "difference": asdict(paired_difference(a, b, seed=report.seed)),
            }
    return found


def set_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The columns: the sets; none where there is one."""
    return list(metrics.get("sets") or {})


def set_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """What the training gained on the held-out prompts of each set."""
    sets = (metrics.get("sets") or {}).values()
    gained = interval_cell(number, 0.0)
    said = {
        "prompts": ("Prompts", "Held-out prompts that both students answered."),
        "baseline": ("Score before", "Mean over prompts, of the student before training."),
        "trained": ("Score after", "Of the trained student."),
    }
    rows = [
        Row(key, title, told, [
            Cell(str(of[key]) if key == "prompts" else number(of[key])) for of in sets
        ])
        for key, (title, told) in said.items()
    ]  # fmt: skip
    told = "After minus before, paired by prompt; bold where its interval excludes 0."
    return [*rows, Row("difference", "Difference", told, [gained(of["difference"]) for of in sets])]
