"""Answers to one prompt as candidates of another that was made of the same base prompt.

Where one prompt demands the opposite of the other, an answer that is right for one is wrong for the
other. A student that is trained on both cannot gain by a habit, since what one of the two raises
the other lowers; and a prompt all of whose own answers are right gets some that are not.

Source: Huang et al. 2025, reverse preference optimization (arXiv:2505.22172), turns round the
demands that an answer misses, so that it is right for another prompt. Differs: both prompts stand
in the data before any answer does, and each is answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rankdistill.rows import Group, Response

SOURCE = "cluster"


def with_cluster(groups: Sequence[Group]) -> list[Group]:
    """The groups, each with the responses to all other prompts of its cluster behind its own.

    Args:
        groups: Unscored; those without a `cluster` stay as they are.
    """
    clusters: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        clusters[group.get("cluster", group["prompt_id"])].append(group)
    return [
        {
            **group,
            "responses": [
                *group["responses"],
                *_others(group, clusters[group.get("cluster", group["prompt_id"])]),
            ],
        }
        for group in groups
    ]


def _others(group: Group, cluster: Sequence[Group]) -> list[Response]:
    return [
        {**response, "source": SOURCE}
        for other in cluster
        if other["prompt_id"] != group["prompt_id"] and other["split"] == group["split"]
        for response in other["responses"]
    ]
