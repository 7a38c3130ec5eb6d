"""The tables that terminal, Markdown and HTML share: of figures, and grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rankdistill.store.words import size_text

NOTHING = "-"
"""Not measured, or says nothing about this model."""

Metrics = Mapping[str, Any]
Text = Callable[[float | None], str]


@dataclass(frozen=True)
class Cell:
    """A figure as text, and its interval where it has one."""

    value: str
    low: str = ""
    high: str = ""
    beyond_noise: bool = False
    """The interval of a comparison excludes "no difference"."""
    per_seed: Sequence[str] = ()
    """The same of each seed, where a figure is a mean over several."""


@dataclass(frozen=True)
class Row:
    """One figure of all models."""

    key: str
    """Key in `metrics.json`."""
    title: str
    explanation: str
    cells: Sequence[Cell]


def table_rows(metrics: Metrics) -> list[Row]:
    """The rows, in the order that an argument would take: better? at what price? how big?"""
    models = list(metrics["models"].values())
    if not models:
        return []
    baseline = metrics["models"][metrics["baseline"]]["label"]
    level = percent(metrics["statistics"]["interval_level"])
    rows = []
    for key, title, explanation, cell in _FIGURES:
        if key in _LEFT_OUT and not any(_known(model.get(key)) for model in models):
            continue
        words = {"baseline": baseline, "level": level, "judge": metrics["judge"]["name"]}
        cells = [cell(model.get(key)) for model in models]
        rows.append(Row(key, title.format(**words), explanation.format(**words), cells))
    return rows


_LEFT_OUT = ("quality", "kendall_tau", "thought_tokens", "answer_tokens", "thought_only")
"""Rows that are left out where they say nothing: no teacher is better beyond noise, so that there
is no way to it; too few pairs were ordered to compare their order; no model thinks."""


def _known(value: Any) -> bool:
    # Runs of before have a bare number.
    return (value["mean"] if isinstance(value, Mapping) else value) is not None


def labels(metrics: Metrics) -> list[str]:
    """The headings of the models' columns."""
    return [model["label"] for model in metrics["models"].values()]


def number(value: float | None, digits: int = 3) -> str:
    """A decimal, with fewer digits where the value is large: 0.123, 12.35, 1234."""
    if value is None:
        return NOTHING
    for bound, fewer in ((1000.0, 3), (100.0, 2), (10.0, 1)):
        if abs(value) >= bound:
            digits = max(0, digits - fewer)
            break
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    text = number(value)
    return text if value is None or float(text) <= 0.0 else f"+{text}"


def percent(value: float | None) -> str:
    """A share of 1 as whole per cent: small ones keep a digit."""
    if value is None:
        return NOTHING
    return f"{100 * value:.1f} %" if 0.0 < value < 0.1 else f"{100 * value:.0f} %"


def share(value: float | None) -> str:
    """A share of 1 in per cent with a digit, without the sign: 45.0."""
    return NOTHING if value is None else _unsigned_zero(f"{100 * value:.1f}")


def share_percent(value: float | None) -> str:
    """The same with the sign: differences are about as large as the digit."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares, in points of 100, with its sign: +4.5."""
    return NOTHING if value is None else _unsigned_zero(f"{100 * value:+.1f}")


def direction(interval: Mapping[str, Any] | None) -> int:
    """1 or -1 where the interval excludes 0, else 0."""
    if interval is None or interval["low"] is None or interval["high"] is None:
        return 0
    return int(interval["low"] > 0.0) - int(interval["high"] < 0.0)


def _unsigned_zero(text: str) -> str:
    return "0.0" if float(text) == 0.0 else text


def tokens(value: float | None) -> str:
    """A mean number of tokens, to a tenth."""
    return NOTHING if value is None else f"{value:.1f}"


def count(value: float | None) -> str:
    """134.5 M."""
    if value is None:
        return NOTHING
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return (
                f"{value / size:.3g} {unit}" if value < 1e3 * size else f"{value / size:.0f} {unit}"
            )
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes as `size_text` has them."""
    return NOTHING if value is None else size_text(value)


def interval_text(interval: Mapping[str, Any] | None, text: Text) -> str:
    """A mean with its interval on one line: ``45.0 [41.2, 48.9]``."""
    if interval is None or interval["mean"] is None:
        return NOTHING
    if interval["low"] is None or interval["high"] is None:
        return text(interval["mean"])
    return f"{text(interval['mean'])} [{text(interval['low'])}, {text(interval['high'])}]"


def plain_cell(text: Callable[[Any], str]) -> Callable[[Any], Cell]:
    """Makes cells of a figure without an interval."""
    return lambda value: Cell(text(value))


def interval_cell(
    text: Text, null: float | None = None, bounds: Text | None = None
) -> Callable[[Any], Cell]:
    """Makes cells of a mean with its interval.

    Args:
        text: Of the mean.
        null: The value for "no difference".
        bounds: Of the interval, where it is another than the mean's.
    """
    end = bounds or text

    def cell(interval: Mapping[str, Any] | None) -> Cell:
        if interval is None or interval["mean"] is None:
            return Cell(NOTHING)
        low, high = interval["low"], interval["high"]
        if low is None or high is None:
            return Cell(text(interval["mean"]))
        beyond = null is not None and not low <= null <= high
        return Cell(text(interval["mean"]), end(low), end(high), beyond)

    return cell


def _way_cell(value: Any) -> Cell:
    """Of a mean with its interval; runs from before there was one have a bare number."""
    return interval_cell(percent)(value) if isinstance(value, Mapping) else Cell(percent(value))


_FIGURES: list[tuple[str, str, str, Callable[[Any], Cell]]] = [
    (
        "score",
        "Judge score",
        "Mean over prompts of {judge}, higher is better; with its {level} interval.",
        interval_cell(number),
    ),
    (
        "score_difference",
        "minus {baseline}",
        "Difference of the judge score to the {baseline} student's on the same prompts, with its "
        "{level} interval (BCa bootstrap over prompts); bold where it excludes 0.",
        interval_cell(signed, 0.0),
    ),
    (
        "win_rate",
        "Wins over {baseline}",
        "How often a response is scored above one of the {baseline} student to the same prompt, "
        "ties half; with its {level} interval; bold where it excludes 50 %.",
        interval_cell(percent, 0.5),
    ),
    (
        "quality",
        "Way to the teacher's score",
        "Share of the way from the judge score of the student before any training (0 %) to the "
        "teacher's own (100 %), on the prompts that all three answered; with its {level} interval. "
        "Only where the teacher scores above that student beyond noise.",
        _way_cell,
    ),
    (
        "kendall_tau",
        "Rank agreement",
        "Kendall's tau between the order of the model's own mean log-probabilities and the "
        "teacher's order of the same held-out responses: 1 the same order, 0 unrelated.",
        interval_cell(number),
    ),
    (
        "kl_to_baseline",
        "KL to {baseline}",
        "KL(model || {baseline}), nats per token, on the model's own responses: how far it moved.",
        plain_cell(number),
    ),
    (
        "kl_to_teacher",
        "KL to teacher",
        "KL(teacher || model), nats per token, on the teacher's responses: what it misses of them.",
        plain_cell(number),
    ),
    (
        "entropy",
        "Entropy",
        "Of the next-token distribution, nats per token, on its own responses: lower is surer.",
        plain_cell(number),
    ),
    (
        "distinct_2",
        "Distinct-2",
        "Share of distinct bigrams among the responses to one prompt: lower is more alike.",
        plain_cell(number),
    ),
    (
        "repetition",
        "Repetition",
        "Share of trigrams that occurred before in the same response: higher is more repetitive.",
        plain_cell(percent),
    ),
    (
        "response_tokens",
        "Response length",
        "Mean tokens of a response, EOS included.",
        plain_cell(tokens),
    ),
    (
        "thought_tokens",
        "Thought",
        "Mean tokens of a response that it thought before it answered.",
        plain_cell(tokens),
    ),
    ("answer_tokens", "Answer", "Mean tokens of the answer behind it.", plain_cell(tokens)),
    (
        "thought_only",
        "No answer",
        "Share of responses that ended, mostly by the length limit, before their thought did.",
        plain_cell(percent),
    ),
    (
        "cut_share",
        "Cut by length",
        "Share of responses that reached the length limit before they ended.",
        plain_cell(percent),
    ),
    (
        "temperature",
        "Temperature",
        "At which the responses were sampled.",
        plain_cell(lambda value: number(value, 2)),
    ),
    ("parameters", "Parameters", "Tied ones counted once.", plain_cell(count)),
    ("disk_bytes", "On disk", "The weights as they are stored.", plain_cell(size)),
    (
        "tokens_per_second",
        "Tokens per second",
        "Sampled, all prompts together; comparable on the same machine only.",
        plain_cell(tokens),
    ),
]


@dataclass(frozen=True)
class Column:
    """A heading and what stands below it."""

    title: str
    explanation: str = ""
    """Empty where the title says it, or another table did."""


@dataclass(frozen=True)
class Line:
    """A row; without cells it is a heading of those below it."""

    title: str
    cells: Sequence[Cell] = ()
    under: str = ""
    """Title of the row that this one belongs to; shown where indenting it cannot say so."""
    model: str = ""
    """Name of the model whose colour it has."""
    marked: bool = False
    """What a reader should see first."""

    @property
    def full_title(self) -> str:
        """A title that can be understood without the rows above it."""
        return f"{self.under}, {self.title}" if self.under else self.title


@dataclass(frozen=True)
class Grid:
    """A table with what it says in a sentence or two.

    The table of figures has a column per model and explains its rows; here a row is a way to
    answer, a comparison, or a kind of demand, and columns are explained.
    """

    title: str
    about: str
    columns: Sequence[Column]
    lines: Sequence[Line]


def without_empty_columns(grid: Grid) -> Grid:
    """The grid with those columns alone in which a row has a figure."""
    kept = [
        place
        for place in range(len(grid.columns))
        if any(line.cells and line.cells[place].value != NOTHING for line in grid.lines)
    ]
    lines = [
        replace(line, cells=[line.cells[place] for place in kept]) if line.cells else line
        for line in grid.lines
    ]
    return replace(grid, columns=[grid.columns[place] for place in kept], lines=lines)


def share_cell(interval: Mapping[str, Any] | None) -> Cell:
    """A mean share in per cent, the sign left to the heading."""
    return Cell(share(interval["mean"] if interval else None))


points_cell = interval_cell(points, 0.0, share)
"""A difference in points with its interval; bold where that excludes 0."""
