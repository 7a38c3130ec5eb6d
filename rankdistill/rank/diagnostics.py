"""How far a ranking can be trusted: bias of a judge, agreement of the scorers, what is disputed.

Everything is measured within prompts, and intervals are over prompts, as everywhere in the report.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rankdistill.rank.aggregate import duels
from rankdistill.rank.ranking import score_by
from rankdistill.rows import Ballot, Group, answer_tokens
from rankdistill.statistics import mean_agreement, mean_interval, tau_b
from rankdistill.store.sequences import places_of, selected
from rankdistill.thoughts import answer_of

HUMAN = ("human", "imported")
"""Names of the scorers whose values come from people, or from the data itself."""
DISPUTED, BINS, RESAMPLES = 10, 20, 2000
LITTLE_AGREEMENT = 0.2
"""Krippendorff's alpha below which a ranking is called mostly noise."""
_QUOTED = 300
"""Characters of a text."""


def diagnose(groups: Sequence[Group]) -> dict[str, Any]:
    """What the report shows of a scored set; plain JSON values, None where there is nothing."""
    names = sorted({n for g in groups for r in g["responses"] for n in r.get("scores", {})})
    return {
        "groups": len(groups),
        "responses": sum(len(group["responses"]) for group in groups),
        "scorers": {name: _scorer(groups, name) for name in names},
        "agreement": _pairs(groups, names),
        "alpha": agreement(groups),
        "raters": _raters_are(groups, names),
        "validation": agreement(selected(groups, places_of(groups, "split", ["validation"]))),
        "disputed": _disputed(groups),
    }


def agreement(groups: Sequence[Group]) -> float | None:
    """Krippendorff's alpha of the raters on the responses' ranks within their prompts.

    The raters are the scorers, where there are several, else the ballots of the one judge.
    """
    units = (zip(*_raters(group), strict=True) for group in groups)
    return krippendorff_alpha(unit for rated in units for unit in rated)


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """1 - observed / expected disagreement, by squared differences (Krippendorff 2004, ch. 11).

    Args:
        units: What was rated; one value per rater, NaN where a rater did not.

    Returns:
        1 for perfect agreement, 0 for chance; None where nothing was rated twice, or all the same.
    """
    rated = [np.array([v for v in unit if math.isfinite(v)], float) for unit in units]
    rated = [values for values in rated if len(values) > 1]
    if not rated:
        return None
    together = np.concatenate(rated)
    observed = sum(2 * len(v) * v.var() * len(v) / (len(v) - 1) for v in rated) / len(together)
    expected = 2 * together.var() * len(together) / (len(together) - 1)
    return None if expected == 0 else float(1 - observed / expected)


def _raters(group: Group) -> list[list[float]]:
    """Per rater, the rank of every response, from 0 for the best to 1 for the worst."""
    names = sorted({name for r in group["responses"] for name in r.get("scores", {})})
    if len(names) > 1:
        return [_ranked([-score_by(r, name) for r in group["responses"]]) for name in names]
    rows = []
    for ballot in group.get("ballots", []):
        given = [math.nan] * len(group["responses"])
        for place, rank in zip(ballot["shown"], ballot["ranks"], strict=True):
            given[place] = rank
        rows.append(_ranked(given))
    return rows


def _raters_are(groups: Sequence[Group], names: Sequence[str]) -> str | None:
    if len(names) > 1:
        return "scorers"
    return "ballots" if any(group.get("ballots") for group in groups) else None


def _ranked(values: Sequence[float]) -> list[float]:
    array = np.array(values, float)
    known = np.isfinite(array)
    if known.sum() > 1:
        array[known] = (rankdata(array[known]) - 1) / (known.sum() - 1)
    else:
        array[:] = math.nan
    return array.tolist()


def _scorer(groups: Sequence[Group], name: str) -> dict[str, Any]:
    rows = [[(score_by(r, name), answer_tokens(r)) for r in group["responses"]] for group in groups]
    known = [[pair for pair in row if math.isfinite(pair[0])] for row in rows]
    values = [value for row in known for value, _ in row]
    pairs = [(a[0], b[0]) for row in known for a, b in combinations(row, 2)]
    lengths = [tau_b([v for v, _ in row], [n for _, n in row]) for row in known if len(row) > 1]
    ballots = [[b for b in group.get("ballots", []) if b["scorer"] == name] for group in groups]
    return {
        "values": len(values),
        "missing": sum(map(len, rows)) - len(values),
        "ties": _share([a == b for a, b in pairs]),
        "length": asdict(mean_agreement(lengths, seed=0, resamples=RESAMPLES)),
        "histogram": _histogram(values),
        "ballots": _ballots(groups, ballots) if any(ballots) else None,
    }


def _ballots(groups: Sequence[Group], ballots: Sequence[list[Ballot]]) -> dict[str, Any]:
    """Of the pairs on a judge's ballots; its ballots by group."""
    both, first, tied = [], [], []
    cyclic = triples = 0
    for group, cast in zip(groups, ballots, strict=True):
        orders: dict[tuple[int, int], list[int]] = defaultdict(list)
        for ballot in cast:
            shown = list(zip(ballot["shown"], ballot["ranks"], strict=True))
            for (i, a), (j, b) in combinations(shown, 2):
                orders[i, j].append((b > a) - (b < a))
        flips = [
            x == y != 0
            for (i, j), seen in orders.items()
            if i < j
            for x, y in zip(seen, orders.get((j, i), []), strict=False)
        ]
        verdicts = [verdict for seen in orders.values() for verdict in seen]
        both.append(flips)
        first.append([verdict > 0 for verdict in verdicts if verdict])
        tied.append([verdict == 0 for verdict in verdicts])
        wins = duels([(ballot, 1.0) for ballot in cast], len(group["responses"]))
        turning, decided = _triples(wins - wins.T)
        cyclic, triples = cyclic + turning, triples + decided
    return {
        "ballots": sum(map(len, ballots)),
        "pairs_in_both_orders": sum(map(len, both)),
        "flips": _rate(both),
        "first_wins": _rate(first),
        "ties": _rate(tied),
        "triples": triples,
        "cyclic": cyclic / triples if triples else None,
    }


def _triples(margins: np.ndarray) -> tuple[int, int]:
    """Cyclic triples, and triples of which all three duels are decided."""
    cyclic = decided = 0
    for i, j, k in combinations(range(len(margins)), 3):
        signs = np.sign([margins[i, j], margins[j, k], margins[k, i]])
        if signs.all():
            decided += 1
            cyclic += bool(abs(signs.sum()) == 3)
    return cyclic, decided


def _pairs(groups: Sequence[Group], names: Sequence[str]) -> list[dict[str, Any]]:
    """Kendall's tau-b of every two scorers, those with people first."""
    ordered = sorted(names, key=lambda name: name not in HUMAN)
    found = []
    for a, b in combinations(ordered, 2):
        taus = []
        for group in groups:
            both = [(score_by(r, a), score_by(r, b)) for r in group["responses"]]
            both = [pair for pair in both if all(map(math.isfinite, pair))]
            taus.append(tau_b([x for x, _ in both], [y for _, y in both]))
        tau = mean_agreement(taus, seed=0, resamples=RESAMPLES)
        found.append({"a": a, "b": b, "human": a in HUMAN, **asdict(tau)})
    return found


def _disputed(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The prompts on which the raters are furthest apart."""
    apart = []
    for place, group in enumerate(groups):
        raters = np.array(_raters(group), float)
        if len(raters) > 1:
            spread = _spread(raters)
            if math.isfinite(spread):
                apart.append((-spread, group["prompt_id"], place))
    worst = [(-spread, groups[place]) for spread, _, place in heapq.nsmallest(DISPUTED, apart)]
    return [
        {
            "prompt_id": group["prompt_id"],
            "prompt": group["messages"][-1]["content"][:_QUOTED] if group["messages"] else "",
            "disagreement": spread,
            "responses": [
                {"text": answer_of(r["text"])[:_QUOTED], "scores": _finite(r.get("scores", {}))}
                for r in group["responses"]
            ],
        }
        for spread, group in worst
        if spread > 0
    ]


def _spread(raters: np.ndarray) -> float:
    """The mean over the responses of the variance of their ranks."""
    columns = [column[np.isfinite(column)] for column in raters.T]
    known = [float(column.var()) for column in columns if len(column) > 1]
    return float(np.mean(known)) if known else math.nan


def _histogram(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    counts, edges = np.histogram(values, bins=BINS)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _rate(by_prompt: Sequence[Sequence[bool]]) -> dict[str, Any] | None:
    """The mean over prompts of a share of their pairs, with its interval."""
    return _mean([float(np.mean(seen)) for seen in by_prompt if seen])


def _mean(shares: Sequence[float]) -> dict[str, Any] | None:
    return asdict(mean_interval(shares, seed=0, resamples=RESAMPLES)) if shares else None


def _share(seen: Sequence[bool]) -> float | None:
    return float(np.mean(seen)) if seen else None


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: v if v is not None and math.isfinite(v) else None for name, v in scores.items()}


BY_WRITER = "writer"
"""The name of the scorer whose values are the writers' order."""


def writer_figures(groups: Sequence[Group]) -> dict[str, Any] | None:
    """What the report says of writers; None where all responses are of one.

    Returns:
        `writers`: by name their `responses`, `wins`, the share of pairs with responses of others
        to the same prompt that they win by `score`, ties half, and `best`, the share of the
        prompts with a response of theirs where no other is better. `held_against`, where the
        writers' order is a score: by each other scorer the share of the pairs of two writers in
        which the stronger one's response is the `better`, `tied` or `worse` one. Shares are means
        over prompts with their interval. The order itself says nothing of a response, so
        `held_against` is what it is worth.
    """
    names = list(dict.fromkeys(r["source"] for g in groups for r in g["responses"]))
    if len(names) < 2:
        return None
    scorers = {n for g in groups for r in g["responses"] for n in r.get("scores", {})}
    others = sorted(scorers - {BY_WRITER}) if BY_WRITER in scorers else []
    return {
        "writers": {name: _writer(groups, name) for name in names},
        "held_against": {name: _held_against(groups, name) for name in others},
    }


def _writer(groups: Sequence[Group], name: str) -> dict[str, Any]:
    wins, best, count = [], [], 0
    for group in groups:
        scored = [(r["source"], r.get("score", math.nan)) for r in group["responses"]]
        own = [score for source, score in scored if source == name and math.isfinite(score)]
        rest = [score for source, score in scored if source != name and math.isfinite(score)]
        count += len(own)
        if own and rest:
            won = [(a > b) + 0.5 * (a == b) for a in own for b in rest]
            wins.append(sum(won) / len(won))
            best.append(float(max(own) >= max(rest)))
    return {"responses": count, "wins": _mean(wins), "best": _mean(best)}


def _held_against(groups: Sequence[Group], scorer: str) -> dict[str, Any]:
    """By what another scorer says of the pairs of two writers."""
    shares: dict[str, list[float]] = defaultdict(list)
    pairs = 0
    for group in groups:
        both = [(score_by(r, BY_WRITER), score_by(r, scorer)) for r in group["responses"]]
        known = [pair for pair in both if all(map(math.isfinite, pair))]
        gaps = [(a[1] - b[1]) * (a[0] - b[0]) for a, b in combinations(known, 2) if a[0] != b[0]]
        pairs += len(gaps)
        if gaps:
            for name, sign in (("better", 1), ("tied", 0), ("worse", -1)):
                seen = [(gap > 0) - (gap < 0) == sign for gap in gaps]
                shares[name].append(sum(seen) / len(seen))
    return {"pairs": pairs, **{name: _mean(shares[name]) for name in ("better", "tied", "worse")}}
