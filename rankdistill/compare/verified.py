"""The figures of verified objectives, from the rows of a comparison's `demands.parquet` alone.

A figure is the mean over an objective's seeds. All seeds are asked the same base prompts, so its
interval resamples base prompts of all seeds together, with the seeds' mean as the statistic: it
speaks of these trained students, and the values of the seeds stand beside it. Differences between
objectives are tested as all differences of a comparison are, so they take in how much seeds differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rankdistill.compare.demands import RunDemands
from rankdistill.compare.statistics import Difference, pair_differences
from rankdistill.evaluate import verified
from rankdistill.evaluate.verified import DemandRow, Tally, subset, tally
from rankdistill.evaluate.verified_figures import CONTRASTS, CONTROLS, GAINS
from rankdistill.report.table import NOTHING, Cell, Row, points, share_percent, tokens
from rankdistill.statistics import Interval

SHARES = {
    "trained": ("trained", "followed"),
    "marks": ("marks", "followed"),
    "restrictions": ("restrictions", "followed"),
    "kept_out": ("kept_out", "followed"),
    "form": ("form", "followed"),
    "strict": ("trained", "strict"),
    "own_minus_opposite": ("trained", "own_minus_opposite"),
}
"""Name of a figure of the trained student: which rows it is of, and what of them."""
MINUS = {
    name: (of, over)
    for name, _, of, over in CONTRASTS
    if name in (*GAINS, *CONTROLS, "teacher", "teacher_best")
}
"""Name of a paired difference: which arm, minus which; of trained kinds."""
GAIN = MINUS["sampled"]
"""The arms that every run must have."""
BySeed = Mapping[int, Tally]
ByArm = Mapping[str, BySeed]


@dataclass(frozen=True)
class VerifiedFigure:
    """The mean over seeds with its interval over base prompts, and what each seed has."""

    interval: Interval
    per_seed: Mapping[int, float]


@dataclass(frozen=True)
class VerifiedTables:
    """What verified runs are compared by; labels with the highest share first."""

    figures: Mapping[str, Mapping[str, VerifiedFigure]]
    """By label, then by a name of `SHARES` or `MINUS`, or `tokens`; what was not measured is left
    out."""
    arms: Mapping[str, Mapping[str, Mapping[int, float]]]
    """By label, arm and seed: the share of trained kinds that is followed."""
    seeds: Mapping[str, Sequence[int]]
    differences: list[Difference]
    """Of that share of the trained students, every pair of labels."""
    base_prompts: int
    rule: str | None
    """Which all answers were held against; None: demands of several kinds."""
    minus: Mapping[str, Mapping[str, np.ndarray]]
    """By a name of `MINUS`, then by label: [seeds, base prompts], whose mean is that figure."""

    def gain(self, label: str) -> tuple[str, VerifiedFigure]:
        """The smaller of the sampled and the greedy gain, and which it is."""
        return self._least(label, GAINS)

    def over_control(self, label: str) -> tuple[str, VerifiedFigure] | None:
        """The smallest difference to a control: to the strongest; None where there was none."""
        known = any(name in self.figures[label] for name in CONTROLS)
        return self._least(label, CONTROLS) if known else None

    def _least(self, label: str, names: Sequence[str]) -> tuple[str, VerifiedFigure]:
        own = self.figures[label]
        name = min((n for n in names if n in own), key=lambda n: own[n].interval.mean)
        return name, own[name]


def unmeasured(runs: Sequence[RunDemands]) -> list[str]:
    """The runs whose students did not answer, before and after training, what asks for a trained
    kind: there is no gain to compare."""
    return [
        run.run for run in runs if not _common(_trained_kinds({0: _by_arm(run.rows)}), *GAIN)[0]
    ]


def verified_tables(runs: Sequence[RunDemands], *, seed: int = 0) -> VerifiedTables:
    """All verified figures.

    Args:
        runs: Of all objectives; none of them `unmeasured`.
        seed: Of the resampling.
    """
    labels = dict.fromkeys(run.objective for run in runs)
    rows = {
        label: {run.seed: _by_arm(run.rows) for run in runs if run.objective == label}
        for label in labels
    }
    tallies = {label: _trained_kinds(of) for label, of in rows.items()}
    trained = {label: of["trained"] for label, of in tallies.items()}
    figures = {label: _figures(rows[label], tallies[label], seed) for label in labels}
    ordered = sorted(labels, key=lambda label: -figures[label]["trained"].interval.mean)
    clusters = sorted({c for of in trained.values() for one in of.values() for c in one.clusters})
    tables = {
        label: {s: contributions(one, clusters) for s, one in trained[label].items()}
        for label in labels
    }
    return VerifiedTables(
        figures={label: figures[label] for label in ordered},
        arms={n: {arm: _each(of) for arm, of in tallies[n].items()} for n in ordered},
        seeds={label: sorted(rows[label]) for label in ordered},
        differences=pair_differences(tables, seed=seed),
        base_prompts=len(clusters),
        rule=_rule(runs),
        minus={name: _minus_tables(tallies, *arms) for name, arms in MINUS.items()},
    )


def _rule(runs: Sequence[RunDemands]) -> str | None:
    kinds = {(row.kind, row.side) for run in runs for row in run.rows if row.kind != verified.FORM}
    [(kind, side), *more] = kinds
    return kind if kind == side and not more else None


def _minus_tables(tallies: Mapping[str, ByArm], a: str, b: str) -> dict[str, np.ndarray]:
    """Arm `a` minus arm `b` of the labels that have both, on the base prompts of all of them."""
    pairs = {label: _common(of, a, b) for label, of in tallies.items()}
    clusters = sorted({c for of, _ in pairs.values() for one in of.values() for c in one.clusters})

    def row(one: Tally) -> np.ndarray:
        return contributions(one, clusters)

    return {
        label: np.stack([row(of[seed]) - row(over[seed]) for seed in sorted(of)])
        for label, (of, over) in pairs.items()
        if of
    }


class OverSeeds(Tally):
    """The tallies of several seeds, [seeds, clusters, kinds]: a mean is the mean of theirs."""

    def mean(self, weights: np.ndarray) -> np.ndarray:
        return super().mean(weights).mean(axis=0)


def over_seeds(tallies: Sequence[Tally]) -> OverSeeds:
    """On the clusters of all; what a seed has nothing of counts nothing there."""
    clusters = sorted({cluster for one in tallies for cluster in one.clusters})
    place = {cluster: i for i, cluster in enumerate(clusters)}
    kinds = max(one.sums.shape[1] for one in tallies)
    sums = np.zeros((len(tallies), len(clusters), kinds))
    counts = np.zeros_like(sums)
    for i, one in enumerate(tallies):
        rows = [place[cluster] for cluster in one.clusters]
        sums[i, rows, : one.sums.shape[1]] = one.sums
        counts[i, rows, : one.sums.shape[1]] = one.counts
    return OverSeeds(clusters, sums, counts)


def contributions(of: Tally, clusters: Sequence[str]) -> np.ndarray:
    """[clusters] What each adds to the macro-average, times their number: it is their mean."""
    totals = of.counts.sum(axis=0)
    known = totals > 0
    own = (of.sums[:, known] / totals[known]).mean(axis=1)
    place = dict(zip(of.clusters, own, strict=True))
    return len(clusters) * np.array([place.get(cluster, 0.0) for cluster in clusters])


def _by_arm(rows: Sequence[DemandRow]) -> dict[str, list[DemandRow]]:
    arms: dict[str, list[DemandRow]] = {}
    for row in rows:
        arms.setdefault(row.arm, []).append(row)
    return arms


Rows = Mapping[int, Mapping[str, Sequence[DemandRow]]]
"""By seed and arm."""


def _trained_kinds(rows: Rows) -> dict[str, dict[int, Tally]]:
    found: dict[str, dict[int, Tally]] = {}
    for seed, arms in rows.items():
        for arm, own in arms.items():
            if (one := tally(subset(own, "trained"))) is not None:
                found.setdefault(arm, {})[seed] = one
    return found


def _figures(rows: Rows, tallies: ByArm, seed: int) -> dict[str, VerifiedFigure]:
    trained = {s: arms["trained"] for s, arms in rows.items()}
    shares = {
        name: {s: tally(subset(own, which), value) for s, own in trained.items()}
        for name, (which, value) in SHARES.items()
    }
    shares["tokens"] = {s: tally(_answers(own)) for s, own in trained.items()}
    figures = {
        name: _mean({s: one for s, one in of.items() if one is not None}, seed)
        for name, of in shares.items()
    }
    figures |= {name: _minus(*_common(tallies, *arms), seed) for name, arms in MINUS.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _answers(rows: Sequence[DemandRow]) -> list[DemandRow]:
    """One row per answer, whose value is how many tokens it took."""
    first = {(row.prompt_id, row.answer): row for row in rows}
    return [replace(row, kind="tokens", followed=float(row.tokens)) for row in first.values()]


def _mean(of: BySeed, seed: int) -> VerifiedFigure | None:
    if not of:
        return None
    return VerifiedFigure(verified.share(over_seeds(list(of.values())), seed), _each(of))


def _minus(a: BySeed, b: BySeed, seed: int) -> VerifiedFigure | None:
    """Paired: `a` and `b` have the same seeds, and each of them the same clusters."""
    if not a:
        return None
    left, right = (over_seeds(list(of.values())) for of in (a, b))
    interval = verified.difference(left, right, seed)
    of_a, of_b = _each(a), _each(b)
    return interval and VerifiedFigure(interval, {s: of_a[s] - of_b[s] for s in of_a})


def _common(tallies: ByArm, a: str, b: str) -> tuple[BySeed, BySeed]:
    """Two arms on the seeds, and there on the base prompts, that both have."""
    of_a, of_b = tallies.get(a, {}), tallies.get(b, {})
    clusters = {s: sorted(set(of_a[s].clusters) & set(of_b[s].clusters)) for s in of_a if s in of_b}
    kept = {s: own for s, own in clusters.items() if own}
    first, second = ({s: of[s].on(own) for s, own in kept.items()} for of in (of_a, of_b))
    return first, second


def _each(of: BySeed) -> dict[int, float]:
    return {s: float(one.mean(np.ones(len(one.clusters)))) for s, one in of.items()}


ABOUT = (
    "Shares are of the trained student's sampled answers{}; differences are in points of 100, on "
    "the same {}, bold where the interval excludes 0. The 95 % intervals resample {} ({})."
)
ABOUT_SEEDS = " Of several seeds: the interval is their mean's, and each seed's value follows it."


class Measure(NamedTuple):
    """A row of the table."""

    name: str
    """Of the figure; the smaller gain has none of its own."""
    title: str
    explanation: str
    text: Callable[[float | None], str]
    minus: bool = False
    """A difference, which may exclude 0."""


SMALLER = "smaller_gain"
_BEFORE = "Minus the student before training"
LINES = [
    Measure("trained", "Trained kinds", "Of the kinds that training prompts have.", share_percent),
    Measure(
        "marks", "Marks", "Of these, what is added to an answer: a title, a postscript.",
        share_percent,
    ),
    Measure(
        "restrictions", "Restrictions",
        "Of these, what binds the whole text: its words, its commas.", share_percent,
    ),
    Measure("kept_out", "Kept-out kinds", "Kinds that no training prompt has.", share_percent),
    Measure(
        "form", "In the wanted form", "Answers that match `eval.verified.form`, right or wrong.",
        share_percent,
    ),
    Measure(
        "strict", "All demands of a prompt",
        "Answers that follow every demand of a trained kind.", share_percent,
    ),
    Measure(
        "own_minus_opposite", "Own minus opposite",
        "How much more often the demand is met than its opposite, which was not asked for: a habit "
        "or a length alone is worth 0.", points, True,
    ),
    Measure("tokens", "Tokens per answer", "Mean.", tokens),
    Measure("sampled", "Gain, sampled", f"{_BEFORE}, both sampled.", points, True),
    Measure("greedy", "Gain, greedy", f"{_BEFORE}, both greedy.", points, True),
    Measure(
        SMALLER, "Smaller gain",
        "The smaller of the two: a student that is only surer gains where it is sampled alone.",
        points, True,
    ),
    Measure(
        "same_entropy", "Over the same entropy",
        f"{_BEFORE}, sampled at the temperature that gives it the same entropy.", points, True,
    ),
    Measure(
        "prompt", "Over a better prompt",
        f"{_BEFORE}, asked in the better way that was chosen on validation prompts.", points, True,
    ),
    Measure(
        "prompt_both", "Over a better prompt, both with it",
        "The same, with the trained student asked in that way as well.", points, True,
    ),
    Measure("teacher", "Over the teacher", "Minus the teacher, as it was asked.", points, True),
    Measure(
        "teacher_best", "Over the best of the teacher's ways, greedy",
        "Greedy, minus the teacher greedily, by majority or after examples, whichever was best on "
        "validation prompts.", points, True,
    ),
]  # fmt: skip


def figure_of(verified: VerifiedTables, label: str, name: str) -> VerifiedFigure | None:
    """A figure of an objective; None: it was not measured."""
    return verified.gain(label)[1] if name == SMALLER else verified.figures[label].get(name)


def verified_rows(verified: VerifiedTables) -> list[Row]:
    """The rows that there are figures for; a column per label of `figures`."""
    rows = []
    for line in LINES if verified.rule is None else _lines_of(verified.rule):
        cells = [_cell(verified, label, line) for label in verified.figures]
        if any(cell.value != NOTHING for cell in cells):
            rows.append(Row(line.name, line.title, line.explanation, cells))
    return rows


def _lines_of(rule: str) -> list[Measure]:
    """Of answers that owe one rule alone, of which all demands are that one."""
    answers = Measure("trained", "Answers", f"That meet the rule `{rule}`.", share_percent)
    return [answers, *(line for line in LINES if line.name not in ("trained", "strict"))]


def about_verified(verified: VerifiedTables) -> str:
    """What stands above the table."""
    more = ABOUT_SEEDS if any(len(seeds) > 1 for seeds in verified.seeds.values()) else ""
    each = ", each kind of demand counting alike" if verified.rule is None else ""
    same = "base prompts and of trained kinds" if verified.rule is None else "prompts"
    return ABOUT.format(each, same, unit(verified), verified.base_prompts) + more


def title_of(verified: VerifiedTables) -> str:
    """What a share is of: as in the report of one run."""
    return "Demands followed" if verified.rule is None else "Rule met"


def unit(verified: VerifiedTables) -> str:
    """What intervals resample."""
    return "base prompts" if verified.rule is None else "held-out prompts"


def verified_columns() -> list[str]:
    """Of `results.csv`: shares of 1, also where they are differences."""
    parts = ("", "_low", "_high", "_per_seed")
    names = [f"verified.{line.name}{part}" for line in LINES for part in parts]
    return [*names, "verified.beyond_noise_over"]


def verified_values(verified: VerifiedTables, label: str) -> dict[str, float | str | None]:
    """Of these columns."""
    values: dict[str, float | str | None] = {}
    for line in LINES:
        if (figure := figure_of(verified, label, line.name)) is None:
            continue
        name, interval = f"verified.{line.name}", figure.interval
        values |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        values[f"{name}_per_seed"] = ";".join(str(v) for _, v in sorted(figure.per_seed.items()))
    better = [
        d.worse for d in verified.differences if d.better == label and d.tested.beyond_noise
    ]  # fmt: skip
    return values | {"verified.beyond_noise_over": ";".join(better)}


def _cell(verified: VerifiedTables, label: str, line: Measure) -> Cell:
    figure = figure_of(verified, label, line.name)
    if figure is None:
        return Cell(NOTHING)
    interval, seeds = figure.interval, verified.seeds[label]
    value = line.text(interval.mean)
    per_seed = [_bare(line, figure.per_seed.get(seed)) for seed in seeds if len(seeds) > 1]
    if interval.low is None or interval.high is None:
        return Cell(value, per_seed=per_seed)
    low, high = _bare(line, interval.low), _bare(line, interval.high)
    return Cell(value, low, high, line.minus and interval.excludes(), per_seed)


def _bare(line: Measure, value: float | None) -> str:
    """Without the unit, which stands with the mean."""
    return line.text(value).removesuffix(" %")
