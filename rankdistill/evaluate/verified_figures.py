"""The block `verified` of `metrics.json`, from the rows alone: anybody can compute it again.

Every figure is a share of demands with its interval; a contrast is the paired difference of two
arms. The headline is the smaller of two gains, of sampled and of greedy answers, since a student
that is only surer of itself gains where it is sampled and not where it is greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from rankdistill.evaluate.verified import (
    SUBSETS,
    DemandRow,
    Verified,
    difference,
    share,
    subset,
    tally,
)
from rankdistill.statistics import Interval

CONTRASTS = (
    ("sampled", "gain, sampled", "trained", "warmed_up"),
    ("greedy", "gain, greedy", "trained_greedy", "warmed_up_greedy"),
    ("same_entropy", "over the same entropy", "trained", "sharpened"),
    ("prompt", "over a better prompt", "trained", "warmed_up_prompted"),
    ("prompt_both", "over a better prompt, both with it", "trained_prompted", "warmed_up_prompted"),
    ("teacher", "over the teacher", "trained", "teacher"),
    ("teacher_greedy", "over the teacher, greedy", "trained_greedy", "teacher_greedy"),
    (
        "teacher_best",
        "over the best of the teacher's ways, greedy",
        "trained_greedy",
        "teacher_best",
    ),
    ("teacher_prompt", "over the teacher with a better prompt", "trained", "teacher_prompted"),
)
"""(name, heading, arm, minus which arm); those whose arms are there are taken."""
GAINS = ("sampled", "greedy")
CONTROLS = ("same_entropy", "prompt", "prompt_both")
"""What a gain must be more than: decoding and prompting, which train nothing."""


def verified_metrics(verified: Verified, seed: int) -> dict[str, Any]:
    """Arms, kinds, contrasts, headline and guards as plain values.

    Args:
        verified: The rows of all arms, and what belongs to them.
        seed: Of the bootstrap.
    """
    rows, labels = verified.rows, verified.labels
    by_arm = {arm: [row for row in rows if row.arm == arm] for arm in labels}
    by_arm = {arm: own for arm, own in by_arm.items() if own}
    contrasts = {
        name: {"title": title, "of": of, "over": over, **_contrast(by_arm[of], by_arm[over], seed)}
        for name, title, of, over in CONTRASTS
        if of in by_arm and over in by_arm
    }
    gains = {name: contrasts[name] for name in GAINS if name in contrasts}
    known = {name: g for name, g in gains.items() if g["trained"] is not None}
    return {
        "rule": verified.rule,
        "clusters": len({row.cluster for row in rows}),
        "arms": {arm: _arm(own, labels[arm], seed) for arm, own in by_arm.items()},
        "contrasts": contrasts,
        "headline": min(known, key=lambda name: known[name]["trained"]["mean"], default=None),
        "prompting": verified.prompting,
        "teacher_best": verified.teacher_best,
        "guards": verified.guards,
    }


def _arm(rows: Sequence[DemandRow], label: str, seed: int) -> dict[str, Any]:
    answers = {(row.prompt_id, row.answer): row.tokens for row in rows}
    return {
        "label": label,
        "prompts": len({row.prompt_id for row in rows}),
        "answers": len(answers),
        "tokens": fmean(answers.values()),
        **{name: _share(subset(rows, name), "followed", seed) for name in SUBSETS},
        "own_minus_opposite": {
            name: _share(subset(rows, name), "own_minus_opposite", seed) for name in SUBSETS
        },
        "prompt_strict": _share(subset(rows, "trained"), "strict", seed),
        "demand_strict": _per_demand(subset(rows, "trained"), seed),
        "kinds": {kind: _kind(subset(rows, kind), seed) for kind in _kinds(rows)},
    }


def _kind(rows: Sequence[DemandRow], seed: int) -> dict[str, Any]:
    return {
        "group": rows[0].group,
        "trained": rows[0].trained,
        "answers": len(rows),
        "followed": _share(rows, "followed", seed),
        "own_minus_opposite": _share(rows, "own_minus_opposite", seed),
        "sides": {
            side: _mean([row for row in rows if row.side == side])
            for side in sorted({row.side for row in rows})
        },
    }


def _kinds(rows: Sequence[DemandRow]) -> list[str]:
    """Trained kinds first, restrictions before marks, each by name."""
    seen = {row.kind: (not row.trained, row.group != "restrictions", row.kind) for row in rows}
    return sorted(seen, key=seen.__getitem__)


def _mean(rows: Sequence[DemandRow]) -> float | None:
    weight = sum(row.weight for row in rows)
    return sum(row.weight * row.followed for row in rows) / weight if weight else None


def _share(rows: Sequence[DemandRow], value: str, seed: int) -> dict[str, Any] | None:
    of = tally(rows, value)
    return None if of is None else asdict(share(of, seed))


def _per_demand(rows: Sequence[DemandRow], seed: int) -> dict[str, Any] | None:
    """The share over all demands alike, however many a kind has."""
    same = [replace(row, kind="any") for row in rows]
    return _share(same, "followed", seed)


def _contrast(a: Sequence[DemandRow], b: Sequence[DemandRow], seed: int) -> dict[str, Any]:
    """The difference of each subset, and of each kind."""
    found: dict[str, Any] = {name: _difference(a, b, name, seed) for name in SUBSETS}
    kinds = [kind for kind in _kinds(a) if kind in set(_kinds(b))]
    return {**found, "kinds": {kind: _difference(a, b, kind, seed) for kind in kinds}}


def _difference(
    a: Sequence[DemandRow], b: Sequence[DemandRow], name: str, seed: int
) -> dict[str, Any] | None:
    left, right = tally(subset(a, name)), tally(subset(b, name))
    if left is None or right is None:
        return None
    found: Interval | None = difference(left, right, seed)
    return None if found is None else asdict(found)
