"""What a run's terminal ends with: the verdict, and a line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankdistill.report.headline import MANY_CUT, headline, judge_warning
from rankdistill.report.suites import suite_changes
from rankdistill.report.table import interval_text, number, percent, share, signed, tokens
from rankdistill.report.terminal import terminal_tables
from rankdistill.report.verified import measured
from rankdistill.report.verified_sentences import judge_line

Metrics = Mapping[str, Any]

_ARMS = {
    "start": None,
    "warmed_up": None,
    "warmed_up_greedy": "  greedy",
    "sharpened": "  same entropy",
    "trained": None,
    "trained_greedy": "  greedy",
    "teacher": None,
}
"""Ways to answer that a verified run is summed up by; None: under the report's own heading."""


def print_summary(metrics: Metrics, console: Console) -> str:
    """Prints the verdict and the figures that it rests on, as wide as the terminal; returns them.

    The columns on the right are left out where there is no room: a figure is never broken.
    """
    width = console.width
    parts: list[Text | Table] = [Text("\n".join(wrap(headline(metrics), width)), style="bold")]
    if metrics.get("verified"):
        parts.append(_narrowed(*_verified(metrics), width))
    elif metrics["models"]:
        parts.append(_narrowed(*_models(metrics), width))
    else:
        parts += terminal_tables(metrics, width)
    for _, change in suite_changes(metrics):
        parts.append(Text("\n".join(wrap(change, width))))
    if told := _judged(metrics):
        parts.append(Text("\n".join(wrap(told, width)), style="dim"))
    for part in parts:
        console.print(part)
    plain = Console(width=width, highlight=False, no_color=True)
    with plain.capture() as captured:
        for part in parts:
            plain.print(part)
    return captured.get()


def _models(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: judge score, gain with its interval, wins, length, cut, repetition."""
    level = percent(metrics["statistics"]["interval_level"])
    heads = ["", "judge score", f"gain, {level}", "wins", "tokens", "cut", "repeats"]
    rows = []
    for name, model in metrics["models"].items():
        gain = model["score_difference"]
        wins = model["win_rate"]
        rows.append([
            "same entropy" if name == metrics["control"] else model["label"],
            number(model["score"]["mean"] if model["score"] else None, 2),
            interval_text(gain, signed),
            percent(wins["mean"] if wins else None),
            tokens(model["response_tokens"]),
            percent(model["cut_share"]),
            percent(model["repetition"]),
        ])  # fmt: skip
    return heads, rows


def _verified(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: demands followed by each way to answer, of trained and kept-out kinds."""
    arms = metrics["verified"]["arms"]
    what, whole = measured(metrics["verified"])
    heads, parts = [f"{what}, %", whole], ["trained"]
    if any(arm["kept_out"] for arm in arms.values()):
        heads, parts = [*heads, "kept-out kinds"], [*parts, "kept_out"]
    return heads, [
        [title or arms[arm]["label"], *(interval_text(arms[arm][part], share) for part in parts)]
        for arm, title in _ARMS.items()
        if arm in arms
    ]


def _narrowed(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """As many of the columns, from the left, as a width has room for."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    most = len(heads)
    while most > 2 and sum(widths[:most]) + 2 * (most - 1) > width:
        most -= 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(heads[:most]):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row[:most], style="bold" if row[0] == "trained" else "")
    return table


def _judged(metrics: Metrics) -> str:
    """Who judged, where that limits what the figures say, and how many answers were cut."""
    told = [judge_line(metrics) or "", "Judged by its own teacher." * bool(judge_warning(metrics))]
    trained = metrics["models"].get(metrics["trained"]) if metrics["models"] else None
    if trained and trained["cut_share"] and trained["cut_share"] >= MANY_CUT:
        told.append(f"{percent(trained['cut_share'])} of its responses were cut by the limit.")
    return " ".join(filter(None, told))
