"""Scores become ranks; groups that teach nothing are set aside; `rank.select` takes its part."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

from rankdistill.rows import Group, Response, answer_tokens


def score_by(response: Response, scorer: str) -> float:
    """What one scorer gave a response; NaN where it gave nothing."""
    value = response.get("scores", {}).get(scorer)
    return math.nan if value is None else value


def ranks(scores: Sequence[float], tie_margin: float = 0.0) -> list[int]:
    """Dense ranks of scores, 0 for the best.

    From the best downwards, a score ties with the *first* of the current tie as long as they differ
    by at most `tie_margin`; so a long chain of close scores does not become one tie.

    Args:
        scores: Finite values, higher is better.
        tie_margin: In the scale of the scores, at least 0.
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    result = [0] * len(scores)
    rank, leader = -1, math.inf
    for i in order:
        if rank < 0 or leader - scores[i] > tie_margin:
            rank, leader = rank + 1, scores[i]
        result[i] = rank
    return result


def distinct(responses: Sequence[Response]) -> list[Response]:
    """The responses without those whose token ids appeared before."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    for response in responses:
        key = tuple(response["token_ids"])
        if key not in seen:
            seen.add(key)
            kept.append(response)
    return kept


def within_length_gap(group: Group, most: int, counts: Counter[str]) -> Group:
    """The group without the responses whose length differs by more than `most` from the best one's.

    So that no pair with the best one is decided by length alone. Counted: `beyond_length_gap`.
    """
    responses = group["responses"]
    scored = [r for r in responses if math.isfinite(r.get("score", math.nan))]
    if not scored:
        return group
    best = answer_tokens(max(scored, key=lambda r: r.get("score", math.nan)))
    kept = [r for r in responses if abs(answer_tokens(r) - best) <= most]
    counts["beyond_length_gap"] += len(responses) - len(kept)
    return {**group, "responses": kept}


def rank_group(group: Group, tie_margin: float, counts: Counter[str]) -> Group | None:
    """The group with `rank` in each response, best first; None where it is set aside.

    Counted in `counts`: `duplicates` (responses), and groups by the reason why they were set aside:
    `score_missing` (NaN or infinite), `single` (fewer than two distinct responses), `all_tied`.
    """
    responses = distinct(group["responses"])
    counts["duplicates"] += len(group["responses"]) - len(responses)
    scores = [response.get("score", math.nan) for response in responses]
    if not all(math.isfinite(score) for score in scores):
        counts["score_missing"] += 1
        return None
    if len(responses) < 2:
        counts["single"] += 1
        return None
    ranked = ranks(scores, tie_margin)
    if max(ranked) == 0:
        counts["all_tied"] += 1
        return None
    counts["ranked"] += 1
    counts["tied_pairs"] += sum(n * (n - 1) // 2 for n in Counter(ranked).values())
    counts["pairs"] += len(ranked) * (len(ranked) - 1) // 2
    with_rank: list[Response] = [
        {**response, "rank": rank} for response, rank in zip(responses, ranked, strict=True)
    ]
    return {**group, "responses": sorted(with_rank, key=lambda response: response.get("rank", 0))}


def select(group: Group, how: str, top_k: int, seed: int) -> Group:
    """The group with the chosen responses only, best first; their ranks are kept.

    Args:
        group: A ranked group, best first, with at least two different ranks.
        how: `all`; `best_worst`; `best_random`, the best and one strictly worse at random (Zephyr,
            Tunstall et al. 2023); `top_k`, the best `top_k`, or more until there is a second rank;
            `random_k`, as many drawn at random, whose smaller draws are within the larger ones: a
            ranking of another length from the same samples; `spread`, as many at even distances
            from the best to the worst.
        top_k: At least 2.
        seed: Of the draw, together with the prompt's id: the same whatever else is in the data.
    """
    responses = group["responses"]
    return {**group, "responses": _chosen(responses, how, top_k, f"{seed}/{group['prompt_id']}")}


def _chosen(responses: list[Response], how: str, top_k: int, seed: str) -> list[Response]:
    if how == "best_worst":
        return [responses[0], responses[-1]]
    if how == "best_random":
        worse = [r for r in responses if r.get("rank", 0) > responses[0].get("rank", 0)]
        return [responses[0], random.Random(seed).choice(worse)]
    if how == "top_k":
        second = next(
            i for i, r in enumerate(responses) if r.get("rank") != responses[0].get("rank")
        )
        return responses[: max(top_k, second + 1)]
    if how == "spread":
        kept = min(top_k, len(responses))
        return [responses[round(i * (len(responses) - 1) / (kept - 1))] for i in range(kept)]
    if how == "random_k":
        drawn = random.Random(seed).sample(range(len(responses)), len(responses))
        second = next(
            n for n, i in enumerate(drawn) if _rank(responses[i]) != _rank(responses[drawn[0]])
        )
        return [responses[i] for i in sorted(drawn[: max(top_k, second + 1)])]
    return responses


def _rank(response: Response) -> int | None:
    return response.get("rank")


def with_placebo(group: Group, seed: int, counts: Counter[str]) -> Group:
    """The group with its pairs of score and rank dealt to its responses at random, best first.

    What a training gains on these, it does not gain from the ranking. Every deal is equally likely,
    the true one as well. Which of the responses with one rank comes first is drawn too, since the
    true order among them would say something. Held-out groups keep their ranks: figures are
    reported on these.

    Args:
        group: A ranked group, best first.
        seed: Of the draw, together with the prompt's id: the same whatever else is in the data.
        counts: `placebo_groups` are those that were dealt anew.
    """
    if group["split"] == "heldout":
        return group
    counts["placebo_groups"] += 1
    responses = list(group["responses"])
    random.Random(f"placebo/{seed}/{group['prompt_id']}").shuffle(responses)
    dealt: list[Response] = [
        {**response, "score": true.get("score", math.nan), "rank": true.get("rank", 0)}
        for response, true in zip(responses, group["responses"], strict=True)
    ]
    return {**group, "responses": dealt}
