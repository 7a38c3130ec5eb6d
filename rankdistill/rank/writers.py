"""Who wrote the responses of a scored set, and what each writer wins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from rankdistill.rank.ranking import score_by
from rankdistill.rows import Group
from rankdistill.statistics import mean_interval

RESAMPLES = 2000
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
    return {"responses": count, "wins": _rate(wins), "best": _rate(best)}


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
    return {"pairs": pairs, **{name: _rate(shares[name]) for name in ("better", "tied", "worse")}}


def _rate(shares: Sequence[float]) -> dict[str, Any] | None:
    return asdict(mean_interval(shares, seed=0, resamples=RESAMPLES)) if shares else None
