"""Does a policy order ranked responses as they are ranked? Pure functions of log-probabilities.

The policy's order is that of its log-probability per token, as in RRHF: sums would put the shorter
response first almost always. A ranking that people or a judge made has an order that needs no model
at all, the longer one first; an accuracy means something only beside that one's, and on pairs of
about the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean


@dataclass(frozen=True)
class Ranking:
    """The responses to one prompt; position k of every list is response k."""

    prompt_id: str
    ranks: list[int]
    """0 is best, ties share a rank."""
    tokens: list[int]
    """That the policy sees, EOS included where the response ends."""
    whole_tokens: list[int]
    """Before they were cut."""


@dataclass(frozen=True)
class RankedSet:
    """Held-out rankings, and what each model makes of them."""

    name: str
    """Where they are from."""
    length_match: float
    """Two lengths match where the shorter is at most this share shorter."""
    rankings: list[Ranking]
    labels: dict[str, str]
    """Headings of the models, in their order; `warmed_up` and `trained` are among the names."""
    mean_logps: dict[str, list[list[float]]]
    """[ranking][response] nats per token, by model."""
    cut: int
    """Responses that were cut."""


def pairs(ranking: Ranking) -> list[tuple[int, int]]:
    """(better, worse) of every strict pair."""
    ranks = ranking.ranks
    return [(i, j) for i, j in permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]]


def matched_pairs(ranking: Ranking, length_match: float) -> list[tuple[int, int]]:
    """The strict pairs of about the same length, before any cut."""
    lengths = ranking.whole_tokens
    return [
        (i, j)
        for i, j in pairs(ranking)
        if min(lengths[i], lengths[j]) >= (1 - length_match) * max(lengths[i], lengths[j])
    ]


def accuracy(values: Sequence[float], of: Sequence[tuple[int, int]]) -> float | None:
    """Share of the pairs (better, worse) with the higher value at the better; equal ones half.

    None: no pair.
    """
    if not of:
        return None
    return fmean(((values[i] > values[j]) + (values[i] >= values[j])) / 2 for i, j in of)


def by_sum(ranking: Ranking, mean_logps: Sequence[float]) -> list[float]:
    """Log-probabilities of whole responses, nats: as DPO compares them, without its reference."""
    return [mean * n for mean, n in zip(mean_logps, ranking.tokens, strict=True)]


def by_log_ratio(
    ranking: Ranking, mean_logps: Sequence[float], reference: Sequence[float]
) -> list[float]:
    """What training changed in them, nats: DPO's implicit reward over beta."""
    ratios = [mean - before for mean, before in zip(mean_logps, reference, strict=True)]
    return by_sum(ranking, ratios)


def by_prompt(
    rankings: Sequence[Ranking],
    values: Sequence[Sequence[float]],
    of: Callable[[Ranking], Sequence[tuple[int, int]]] = pairs,
) -> dict[str, float]:
    """Accuracy by prompt id; prompts without such a pair are left out."""
    found = {r.prompt_id: accuracy(v, of(r)) for r, v in zip(rankings, values, strict=True)}
    return {prompt: value for prompt, value in found.items() if value is not None}
