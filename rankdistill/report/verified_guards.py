"""The guards of a verified run: what a gain in form alone would cost, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rankdistill.report.table import NOTHING, Cell, Row, number, share, tokens

Metrics = Mapping[str, Any]
MORE_REPETITION, FEWER_ANSWERS, ONLY_MARKS = 0.02, 0.1, 0.05
"""Beyond these the report warns: a rise, a fall, and a share, each of 1."""
_MOST_MARKS = 3
"""Most unasked marks that a cell names."""


def guard_heads(metrics: Metrics) -> list[tuple[str, str]]:
    """(name, heading) of the models whose answers are guarded."""
    block = metrics.get("verified")
    if not block:
        return []
    return [(name, metrics["models"][name]["label"]) for name in _guarded(metrics)]


def guard_rows(metrics: Metrics) -> list[Row]:
    """A row per guard, one cell per model; those that no model has are left out."""
    if not metrics.get("verified"):
        return []
    guarded = list(_guarded(metrics).values())
    rows = [
        Row(key, title, told, [Cell(text(guards)) for guards in guarded])
        for key, title, told, text in _GUARDS
    ]
    return [row for row in rows if any(cell.value != NOTHING for cell in row.cells)]


def guard_cautions(metrics: Metrics) -> list[tuple[str, str]]:
    """(kind, sentence): what worsened notably in training; one sentence where nothing did."""
    guards = _guarded(metrics)
    before, after = guards.get(metrics["baseline"]), guards.get(metrics["trained"])
    if before is None or after is None:
        return []
    worse = [*_more_repetition(before, after), *_fewer(before, after), *_only_marks(before, after)]
    if not worse:
        return [("plain", "Guards: none worsened notably; see the table.")]
    return [("warning", f"Guards: {sentence}.") for sentence in worse]


def _guarded(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """The guards of each model, with those of its figures that guard as well."""
    found = {}
    for name, guards in (metrics["verified"]["guards"] or {}).items():
        if name in metrics["models"]:
            figures = metrics["models"][name]
            of_figures = {key: figures[key] for key in ("repetition", "distinct_2")}
            found[name] = {**guards, **of_figures, "plain": guards.get("plain") or {}}
    return found


def _more_repetition(before: Metrics, after: Metrics) -> Iterator[str]:
    for where, old, new in (
        ("", before, after),
        (" in answers to prompts without demands", before["plain"], after["plain"]),
    ):
        a, b = old.get("repetition"), new.get("repetition")
        if a is not None and b is not None and b - a > MORE_REPETITION:
            yield f"repetition rose from {share(a)} % to {share(b)} %{where}"


def _fewer(before: Metrics, after: Metrics) -> Iterator[str]:
    for what, key, old, new in (
        ("right answers", "right", before, after),
        ("right answers to prompts without demands", "right", before["plain"], after["plain"]),
        ("answers from which the teacher tells their request", "belongs", before, after),
    ):
        a, b = old.get(key), new.get(key)
        if a is not None and b is not None and a - b > FEWER_ANSWERS:
            count = new[f"{key}_of"]
            yield f"{what} fell from {share(a)} % to {share(b)} % (of {count})"


def _only_marks(before: Metrics, after: Metrics) -> Iterator[str]:
    value = after.get("only_marks")
    if value is not None and value > ONLY_MARKS:
        was = before.get("only_marks")
        of_old = "" if was is None else f" (was {share(was)} %)"
        yield f"{share(value)} % of the answers that were asked for a mark are nothing else{of_old}"


def _share(key: str, *, counted: bool = False) -> Callable[[Metrics], str]:
    """A share of some answers; `counted` with their number."""

    def text(guards: Metrics) -> str:
        value = guards.get(key)
        if value is None:
            return NOTHING
        return f"{share(value)} % of {guards[f'{key}_of']}" if counted else f"{share(value)} %"

    return text


def _plain(text: Callable[[Metrics], str]) -> Callable[[Metrics], str]:
    """The same of the answers to prompts without demands."""
    return lambda guards: text(guards["plain"])


def _unasked(plain: Metrics) -> str:
    """The most frequent marks that nobody asked for."""
    shares = plain.get("unasked")
    if not shares:
        return NOTHING
    found = sorted((name for name in shares if shares[name]), key=lambda name: -shares[name])
    shown = [f"{name.replace('_', ' ')} {share(shares[name])} %" for name in found[:_MOST_MARKS]]
    return "\n".join(shown) or "none"


_WITHOUT = "Of answers to prompts without demands"
_GUARDS: list[tuple[str, str, str, Callable[[Metrics], str]]] = [
    (
        "right", "Right answers",
        "Of the answers to held-out requests that have a known answer, those that contain it.",
        _share("right", counted=True),
    ),
    (
        "plain_right", "Right, no demands",
        "The same requests, asked without any demand.", _plain(_share("right", counted=True)),
    ),
    (
        "belongs", "Belongs to its request",
        "Answers from which the teacher tells their own request among eleven; by chance 9 %.",
        _share("belongs", counted=True),
    ),
    (
        "only_marks", "Nothing but marks",
        "Of the answers that were asked for a mark, those with hardly a word beside it.",
        _share("only_marks"),
    ),
    (
        "teacher_logp", "Teacher's log-probability",
        "Of the answers under the teacher, nats per token: lower is less like what it would say.",
        lambda guards: number(guards.get("teacher_logp")),
    ),
    (
        "repetition", "Repetition",
        "Share of trigrams that occurred before in the same answer.", _share("repetition"),
    ),
    (
        "distinct_2", "Distinct-2",
        "Share of distinct bigrams among the answers to one prompt: lower is more alike.",
        lambda guards: number(guards.get("distinct_2")),
    ),
    (
        "plain_tokens", "Length, no demands",
        f"{_WITHOUT}: mean tokens.", _plain(lambda plain: tokens(plain.get("tokens"))),
    ),
    (
        "plain_repetition", "Repetition, no demands",
        f"{_WITHOUT}: as above.", _plain(_share("repetition")),
    ),
    (
        "plain_unasked", "Unasked marks",
        f"{_WITHOUT}: the most frequent marks they have all the same, a habit.", _plain(_unasked),
    ),
]  # fmt: skip
