"""What the report says of the ranking that the student was trained on: can it be trusted?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes

from rankdistill.rank.diagnostics import LITTLE_AGREEMENT
from rankdistill.report.svg import SERIES, Plot, plot
from rankdistill.report.table import Cell, Row, interval_cell, number, percent, plain_cell

WRITERS = "Who wrote the responses"
_CALLED = {"cluster": "student, asked otherwise"}
"""Writers whose name in the ranked set says nothing to a reader."""


def writer_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The columns: the writers; none where there is one."""
    names: Mapping[str, Any] = _of(metrics).get("writers", {})
    return [_CALLED.get(name, name) for name in names]


def writer_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """How many each wrote, and what they win."""
    found = _of(metrics).get("writers", {})
    writers = found.values()
    otherwise = " Asked otherwise: the same request with other demands." * ("cluster" in found)
    wins, best = interval_cell(percent, 0.5), interval_cell(percent)
    return [
        Row(
            "responses", "Responses", f"That were ranked.{otherwise}",
            [Cell(str(writer["responses"])) for writer in writers],
        ),
        Row(
            "wins", "Wins",
            "Share of the pairs with another writer's response to the same prompt that it wins by "
            "the score, ties half; bold where the interval excludes 50 %.",
            [wins(writer["wins"]) for writer in writers],
        ),
        Row(
            "best", "Best of its prompt", "Share of the prompts where no other is better.",
            [best(writer["best"]) for writer in writers],
        ),
    ]  # fmt: skip


def writer_cautions(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, sentence): how often the stronger writer's response is the better one."""
    said = []
    for name, found in _of(metrics).get("held_against", {}).items():
        if found["better"] is None:
            continue
        better, worse = found["better"], found["worse"]
        noise = better["low"] is None or better["low"] <= worse["mean"]
        told = (
            f"Ranking: by {name}, the stronger writer's response is the better one in "
            f"{percent(better['mean'])} of the pairs of two writers and the worse in "
            f"{percent(worse['mean'])}"
        )
        more = ": the order of the writers says little." if noise else "."
        said.append(("warning" if noise else "plain", told + more))
    return said


def _of(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Runs from before there were writers have none."""
    return (metrics.get("ranking") or {}).get("writers") or {}


Metrics = Mapping[str, Any]
_LENGTH_BIAS, _FLIPS = 0.3, 0.2
"""Beyond these the report warns: tau of score and length, share of flips."""


def ranking_labels(metrics: Metrics) -> list[str]:
    """The columns: the scorers."""
    return list(metrics["ranking"]["scorers"])


def ranking_rows(metrics: Metrics) -> list[Row]:
    """A row per property of the scorers; those of judges of orders only where there is one."""
    scorers = list(metrics["ranking"]["scorers"].values())
    rows = [
        Row(key, title, told, [cell(scorer[key]) for scorer in scorers])
        for key, title, told, cell in _OF_ANY
    ]
    if any(scorer["ballots"] for scorer in scorers):
        rows += [
            Row(key, title, told, [cell((scorer["ballots"] or {}).get(key)) for scorer in scorers])
            for key, title, told, cell in _OF_JUDGES
        ]
    return rows


def agreement_rows(metrics: Metrics) -> list[list[str]]:
    """Two scorers, Kendall's tau with its interval, the prompts it is over."""
    rows = []
    for pair in metrics["ranking"]["agreement"]:
        tau = number(pair["mean"])
        if pair["low"] is not None:
            tau += f" ({number(pair['low'])} to {number(pair['high'])})"
        rows.append([f"{pair['a']} and {pair['b']}", tau, str(pair["groups"])])
    return rows


def ranking_cautions(metrics: Metrics) -> list[tuple[str, str]]:
    """(kind, sentence) of what a reader must know of the ranking."""
    ranking = metrics.get("ranking")
    if not ranking:
        return []
    said = []
    for name, scorer in ranking["scorers"].items():
        said += _biases(name, scorer)
    said += writer_cautions(metrics)
    alpha, raters = ranking["alpha"], ranking["raters"]
    if alpha is not None:
        noise = alpha < LITTLE_AGREEMENT
        little = ": close to chance, so the ranking is mostly noise" if noise else ""
        said.append(
            (
                "warning" if noise else "plain",
                f"Ranking: the {raters} agree with Krippendorff's alpha {number(alpha)}{little}.",
            )
        )
    return said


def _biases(name: str, scorer: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = []
    length, ballots = scorer["length"], scorer["ballots"]
    low, high = length["low"], length["high"]
    if low is not None and (low > _LENGTH_BIAS or high < -_LENGTH_BIAS):
        which = "longer" if length["mean"] > 0 else "shorter"
        said.append(
            f"{name} favours {which} responses (tau of its values and length "
            f"{number(length['mean'])}): rank.length_debias=true takes length out."
        )
    first, flips = (ballots["first_wins"], ballots["flips"]) if ballots else (None, None)
    if first and first["low"] is not None and not first["low"] <= 0.5 <= first["high"]:
        which = "first" if first["mean"] > 0.5 else "last"
        said.append(
            f"{name} favours the response that it reads {which} ({percent(first['mean'])} of its "
            "decided pairs go to the first); both orders are asked, which cancels it."
        )
    if flips and flips["mean"] > _FLIPS:
        said.append(
            f"{percent(flips['mean'])} of {name}'s verdicts turn over with the order of the "
            "responses; they count as ties."
        )
    return [("warning", f"Ranking: {sentence}") for sentence in said]


def ranking_plots(metrics: Metrics) -> list[Plot]:
    """Each scorer's histogram."""
    scorers = (metrics.get("ranking") or {"scorers": {}})["scorers"]
    told = "Of the responses that were ranked, in its own scale."
    return [
        drawn
        for index, (name, scorer) in enumerate(scorers.items())
        if (bars := scorer["histogram"])
        for drawn in plot(f"ranking{index}", f"Values of {name}", told, _histogram(bars, name))
    ]


def _histogram(bars: Mapping[str, Any], name: str) -> Callable[[Axes], bool]:
    def fill(axes: Axes) -> bool:
        axes.stairs(bars["counts"], bars["edges"], fill=True, color=SERIES[1], alpha=0.75)
        axes.set_xlabel(name)
        axes.set_ylabel("responses")
        return True

    return fill


_OF_ANY: list[tuple[str, str, str, Callable[[Any], Cell]]] = [
    ("values", "Values", "Responses with a value.", plain_cell(lambda value: str(value))),
    ("missing", "Missing", "Responses without one: set aside, not guessed.", plain_cell(str)),
    (
        "ties",
        "Tied pairs",
        "Share of the pairs of one prompt with equal values.",
        plain_cell(percent),
    ),
    (
        "length",
        "Follows length",
        "Kendall's tau of value and response tokens within prompts: 0 is unrelated, 1 the longer "
        "the better; bold where its interval excludes 0.",
        interval_cell(number, 0.0),
    ),
]
_OF_JUDGES: list[tuple[str, str, str, Callable[[Any], Cell]]] = [
    ("ballots", "Ballots", "Verdicts on an order.", plain_cell(lambda value: str(value or "-"))),
    (
        "flips",
        "Position flips",
        "Share of the pairs, asked in both orders, whose verdicts contradict each other.",
        interval_cell(percent),
    ),
    (
        "first_wins",
        "First wins",
        "How often, of its decided pairs, it prefers what it read first; bold where the interval "
        "excludes 50 %, which is a position bias.",
        interval_cell(percent, 0.5),
    ),
    ("ties", "Said to tie", "Share of its verdicts that are ties.", interval_cell(percent)),
    (
        "cyclic",
        "Cyclic triples",
        "Share of decided triples in which a beats b, b beats c and c beats a.",
        plain_cell(percent),
    ),
]
