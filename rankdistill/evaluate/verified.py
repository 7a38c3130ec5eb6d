"""Which demands verified answers follow: one row per demand and answer, and the figures of them.

A figure of several kinds is the mean over kinds of the share of answers that follow it (the
macro-average), so that a kind that is asked for often counts no more than another. Intervals
resample *clusters*: all prompts that were made of one base prompt stay together. Differences are
paired: both sides are taken on the clusters that both have.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from rankdistill.prompts.demands import kinds
from rankdistill.prompts.instructions import demands_of
from rankdistill.rows import Group, row_columns
from rankdistill.score.verifier.instructions import follows
from rankdistill.statistics import RESAMPLES, Interval, bootstrap
from rankdistill.thoughts import answer_of, has_no_answer

SUBSETS = ("trained", "marks", "restrictions", "kept_out", "form")
"""What figures are averaged over: trained kinds, those of them that are marks or restrictions,
kinds that no train prompt has, and the form that `eval.verified.form` asks for. Kinds outside
`demands.yaml` are neither marks nor restrictions."""
FORM = "form"
"""The kind and the group of a row that says whether an answer has that form, whatever it says."""


@dataclass(frozen=True)
class DemandRow:
    """One demand of a prompt, and whether one answer follows it."""

    arm: str
    """Who answered, and how: `trained`, `trained_greedy`, `warmed_up_best_of_4`."""
    prompt_id: str
    cluster: str
    kind: str
    side: str
    group: str
    """`marks`, `restrictions`, `form`, or `other`."""
    trained: bool
    """Whether a train prompt has a demand of this kind."""
    answer: int
    """Place of the answer among those of the arm to this prompt."""
    followed: float
    """1 or 0; the rule's own value where it gives shares."""
    opposite: float | None
    """The same of the opposite demand, which was not asked for; None: it has none."""
    tokens: int
    """That the answer took; of the best of n, all n."""
    weight: float = 1.0
    """Of the answer among those of its arm and prompt."""


_ARROW = {"str": "string", "bool": "bool", "int": "int64", "float": "float64"}
DEMAND_COLUMNS = {of.name: _ARROW[str(of.type).partition(" ")[0]] for of in fields(DemandRow)}
"""The Arrow type of every field of a `DemandRow`, for files of them."""


@dataclass(frozen=True)
class Verified:
    """What the report is told of a verified run."""

    rows: Sequence[DemandRow]
    """Of all arms, on held-out prompts."""
    labels: Mapping[str, str]
    """Headings of the arms, in their order."""
    prompting: Mapping[str, Any] | None
    """Which better prompt was `chosen` on validation, and what each was worth there."""
    guards: Mapping[str, Mapping[str, Any]]
    """By model."""
    rule: str
    teacher_best: Mapping[str, Any] | None = None
    """Which of the teacher's ways to answer was `chosen` on validation, and what each was worth."""


def demand_rows(
    groups: Sequence[Group],
    arm: str,
    trained_kinds: Sequence[str],
    rule: str,
    form: str | None = None,
) -> list[DemandRow]:
    """The rows of the answers of one arm.

    A group whose columns hold no instructions was verified by another rule: its one demand is that
    rule, and followed is the score. Answers without a score are left out. With `form` an answer has
    one row more, which says whether it has that form and counts as no trained kind.

    Args:
        groups: Verified groups.
        arm: Who answered.
        trained_kinds: Of the train prompts, see `kinds_of`.
        rule: `score.rule`, the kind of what is no instruction.
        form: Pattern of the form that answers were asked for; None asks for none.
    """
    rows = []
    for group in groups:
        cluster = group.get("cluster", group["prompt_id"])
        for number, response in enumerate(group["responses"]):
            score = response.get("score", math.nan)
            if not math.isfinite(score):
                continue
            demands = _demands(group, response["text"], score, rule)
            if form is not None:
                has_form = re.search(form, answer_of(response["text"])) is not None
                demands.append((FORM, FORM, float(has_form), None))
            for kind, side, followed, opposite in demands:
                rows.append(
                    DemandRow(
                        arm=arm,
                        prompt_id=group["prompt_id"],
                        cluster=cluster,
                        kind=kind,
                        side=side,
                        group=_group_of(kind),
                        trained=kind in trained_kinds,
                        answer=number,
                        followed=followed,
                        opposite=opposite,
                        tokens=len(response["token_ids"]),
                    )
                )
    return rows


def _group_of(kind: str) -> str:
    if kind in kinds():
        return kinds()[kind].group
    return FORM if kind == FORM else "other"


def best_of_rows(rows: Sequence[DemandRow], arm: str, n: int) -> list[DemandRow]:
    """The rows of the best of `n` answers by the verifier's own score, in expectation.

    Rows of the form say nothing of the score, and are left out.

    Of the k answers to a prompt, every choice of n is equally likely; the weight of an answer is
    the chance that it is the best of such a choice, equally good ones sharing it. Tokens are those
    of all n answers.

    Prompts with fewer than `n` answers that have a score are left out.
    """
    by_prompt: dict[str, list[DemandRow]] = {}
    for row in rows:
        if row.group != FORM:
            by_prompt.setdefault(row.prompt_id, []).append(row)
    chosen = []
    for own in by_prompt.values():
        scores: dict[int, list[float]] = {}
        for row in own:
            scores.setdefault(row.answer, []).append(row.followed)
        means = {answer: sum(of) / len(of) for answer, of in scores.items()}
        if len(means) < n:
            continue
        weights = best_of_weights(list(means.values()), n)
        weight_of = dict(zip(means, weights, strict=True))
        lengths = {row.answer: row.tokens for row in own}
        spent = round(n * sum(lengths.values()) / len(lengths))
        chosen += [replace(row, arm=arm, tokens=spent, weight=weight_of[row.answer]) for row in own]
    return chosen


def best_of_weights(scores: Sequence[float], n: int) -> list[float]:
    """The chance of each of k answers to be taken as the best of `n` of them; they add up to 1."""
    k = len(scores)
    if not 1 <= n <= k:
        raise ValueError(f"the best of {n} answers is asked for, and there are {k}")
    weights = [0.0] * k
    for value in set(scores):
        better = sum(score > value for score in scores)
        tied = sum(score == value for score in scores)
        # The best has this value: none of the better ones is chosen, one of these or more are.
        chance = (math.comb(k - better, n) - math.comb(k - better - tied, n)) / math.comb(k, n)
        for place, score in enumerate(scores):
            if score == value:
                weights[place] = chance / tied
    return weights


def kinds_of(prompts: Sequence[Mapping[str, Any]], rule: str) -> list[str]:
    """The kinds of demands that prompts have."""
    kinds: set[str] = set()
    for prompt in prompts:
        columns = row_columns(prompt)
        if "demands" in columns:
            kinds |= {demand.kind for demand in demands_of(columns)}
        else:
            kinds |= {*map(_bare, _names(columns))} if rule == "ifeval" else {rule}
    return sorted(kinds)


def _names(columns: Mapping[str, Any]) -> list[str]:
    """The names of a prompt's instructions; none where its data are no list of them."""
    given = columns.get("instruction_id_list")
    try:
        names = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _bare(name: str) -> str:
    return name.rpartition(":")[2]


def _demands(
    row: Mapping[str, Any], text: str, score: float, rule: str
) -> list[tuple[str, str, float, float | None]]:
    """(kind, side, followed, opposite followed) of every demand of a prompt.

    Without an answer none is followed, and no opposite.
    """
    lost, text = has_no_answer(text), answer_of(text)

    def followed(demanded: str, arguments: Any) -> float:
        return float(not lost and follows(text, demanded, arguments))

    columns = row_columns(row)
    if "demands" in columns:
        return [
            (
                d.kind,
                d.side,
                followed(d.rule, d.arguments),
                followed(d.opposite_rule, d.opposite_arguments),
            )
            for d in demands_of(columns)
        ]
    if rule != "ifeval":
        return [(rule, rule, score, None)]
    names, arguments = (
        json.loads(value) if isinstance(value, str) else value
        for value in (columns.get("instruction_id_list", []), columns.get("kwargs", []))
    )
    verdicts = [followed(n, a or {}) for n, a in zip(names, arguments, strict=True)]
    bare = [*map(_bare, names)]
    return [(name, name, value, None) for name, value in zip(bare, verdicts, strict=True)]


@dataclass(frozen=True)
class Tally:
    """Weighted sums and counts of one arm, by cluster and kind: what every figure is made of."""

    clusters: Sequence[str]
    sums: np.ndarray
    """[clusters, kinds]"""
    counts: np.ndarray
    """[clusters, kinds]"""

    def on(self, clusters: Sequence[str]) -> Self:
        """The same on these clusters."""
        place = {cluster: i for i, cluster in enumerate(self.clusters)}
        rows = [place[cluster] for cluster in clusters]
        return type(self)(clusters, self.sums[..., rows, :], self.counts[..., rows, :])

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """The macro-average with each cluster taken as often as `weights` [..., clusters] says."""
        counts = weights @ self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (weights @ self.sums) / counts
        known = counts > 0
        return np.where(known, shares, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)

    @property
    def constant(self) -> bool:
        """Whether all shares are the same, so that the average is, however clusters are drawn."""
        known = self.counts > 0
        return bool(np.ptp(self.sums[known] / self.counts[known]) == 0.0)


def tally(rows: Sequence[DemandRow], value: str = "followed") -> Tally | None:
    """Of one arm's rows; None where there are none.

    Args:
        rows: Of one arm, and of the kinds that are averaged.
        value: `followed`; `own_minus_opposite`, of rows that have an opposite; `strict`: of an
            answer, whether it follows all demands of its prompt.
    """
    if value == "strict":
        rows = _strict(rows)
    if value == "own_minus_opposite":
        rows = [row for row in rows if row.opposite is not None]
    if not rows:
        return None
    clusters = sorted({row.cluster for row in rows})
    names = sorted({row.kind for row in rows})
    place = {cluster: i for i, cluster in enumerate(clusters)}
    column = {kind: i for i, kind in enumerate(names)}
    sums = np.zeros((len(clusters), len(names)))
    counts = np.zeros_like(sums)
    for row in rows:
        taken = row.followed
        if value == "own_minus_opposite":
            taken -= row.opposite or 0.0
        sums[place[row.cluster], column[row.kind]] += row.weight * taken
        counts[place[row.cluster], column[row.kind]] += row.weight
    return Tally(clusters, sums, counts)


def _strict(rows: Sequence[DemandRow]) -> list[DemandRow]:
    """One row per answer: followed where all its demands are."""
    whole: dict[tuple[str, int], DemandRow] = {}
    for row in rows:
        key = row.prompt_id, row.answer
        before = whole[key].followed if key in whole else 1.0
        whole[key] = replace(row, kind="all", followed=min(before, row.followed))
    return list(whole.values())


def subset(rows: Sequence[DemandRow], name: str) -> list[DemandRow]:
    """The rows of one of `SUBSETS`, or of the kind that is named."""
    if name == "trained":
        return [row for row in rows if row.trained]
    if name == "kept_out":
        return [row for row in rows if not row.trained and row.group != FORM]
    if name in ("marks", "restrictions"):
        return [row for row in rows if row.trained and row.group == name]
    return [row for row in rows if row.kind == name]


def share(of: Tally, seed: int) -> Interval:
    """The macro-average of an arm with its interval."""
    return _interval(of.mean, len(of.clusters), seed, of.constant)


def difference(a: Tally, b: Tally, seed: int) -> Interval | None:
    """`a` minus `b` on the clusters of both, paired; None where they share none."""
    common = sorted(set(a.clusters) & set(b.clusters))
    if not common:
        return None
    left, right = a.on(common), b.on(common)
    return _interval(
        lambda weights: left.mean(weights) - right.mean(weights), len(common), seed,
        left.constant and right.constant,
    )  # fmt: skip


def _interval(statistic: Any, clusters: int, seed: int, constant: bool) -> Interval:
    """BCa over clusters (Efron 1987), as in `rankdistill.statistics`."""
    mean = float(statistic(np.ones(clusters)))
    if clusters == 1:
        return Interval(mean, None, None)
    if constant:
        return Interval(mean, mean, mean)

    def resampled(places: np.ndarray, axis: int = -1) -> np.ndarray:
        flat = places.reshape(-1, places.shape[-1])
        offsets = np.arange(len(flat))[:, None] * clusters
        drawn = np.bincount((flat + offsets).ravel(), minlength=len(flat) * clusters)
        values = statistic(drawn.reshape(len(flat), clusters).astype(float))
        return values.reshape(places.shape[:-1])

    low, high = bootstrap([np.arange(clusters)], resampled, seed, resamples=RESAMPLES)
    finite = math.isfinite(low) and math.isfinite(high)
    return Interval(mean, low, high) if finite else Interval(mean, mean, mean)
