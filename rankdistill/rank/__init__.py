"""The rank stage: scores -> order, ties, selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rankdistill.errors import UserError
from rankdistill.rank.combine import with_moved_ballots, with_places, without_missing
from rankdistill.rank.ranking import rank_group, ranks, select, with_placebo, within_length_gap
from rankdistill.rows import Group
from rankdistill.schema import RankConfig

__all__ = ["rank_group", "rank_groups", "ranks", "select"]

REASONS = ("score_missing", "single", "all_tied")


def rank_groups(
    groups: Sequence[Group], config: RankConfig, seed: int
) -> tuple[list[Group], Counter[str]]:
    """The groups that can be trained on, ranked and cut to `rank.select`, and the counts.

    Raises:
        UserError: No group is left, or none of those to train on.
    """
    counts: Counter[str] = Counter(groups=len(groups))
    whole = [without_missing(with_places(group), counts) for group in groups]
    if config.max_length_gap is not None:
        whole = [within_length_gap(group, config.max_length_gap, counts) for group in whole]
    ranked = [rank_group(group, config.tie_margin, counts) for group in whole]
    if config.placebo:
        ranked = [group and with_placebo(group, seed, counts) for group in ranked]
    kept = [
        with_moved_ballots(select(group, config.select.name, config.top_k, seed))
        for group in ranked
        if group
    ]
    given, left = ({group["split"] for group in rows} for rows in (groups, kept))
    if not kept or ("train" in given and "train" not in left):
        reasons = ", ".join(f"{counts[reason]} {reason}" for reason in REASONS if counts[reason])
        raise UserError(
            f"no group is left to train on: {len(groups)} groups, set aside: {reasons or 'none'}; "
            "sample more responses (sample.responses_per_prompt), take a finer rule, lower "
            "rank.tie_margin or raise rank.max_length_gap."
        )
    return kept, counts
