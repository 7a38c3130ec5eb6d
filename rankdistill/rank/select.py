"""Which responses of a ranked group are trained on (`rank.select`)."""

from __future__ import annotations

import random

from rankdistill.records import Group, Response


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
