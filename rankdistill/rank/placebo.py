"""Ranks that say nothing: what a training gains on them, it does not gain from the ranking."""

from __future__ import annotations

import math
import random
from collections import Counter

from rankdistill.rows import Group, Response


def with_placebo(group: Group, seed: int, counts: Counter[str]) -> Group:
    """The group with its pairs of score and rank dealt to its responses at random, best first.

    Every deal is equally likely, the true one as well. Which of the responses with one rank comes
    first is drawn too, since the true order among them would say something. Held-out groups keep
    their ranks: figures are reported on these.

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
