"""The rank stage: scores -> order, ties, selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rankdistill.errors import UserError
from rankdistill.rank.combine import with_moved_ballots, with_places, without_missing
from rankdistill.rank.ranking import rank_group, ranks, select, with_placebo, within_length_gap
from rankdistill.rows import Group
from rankdistill.schema import RankConfig
from rankdistill.store.sequences import values_of

__all__ = ["rank_group", "rank_groups", "ranked_groups", "ranks", "select"]

REASONS = ("score_missing", "single", "all_tied")


def rank_groups(
    groups: Sequence[Group], config: RankConfig, seed: int
) -> tuple[list[Group], Counter[str]]:
    """The groups that can be trained on, ranked and cut to `rank.select`, and the counts.

    Raises:
        UserError: No group is left, or none of those to train on.
    """
    counts: Counter[str] = Counter()
    return list(ranked_groups(groups, config, seed, counts)), counts


def ranked_groups(
    groups: Sequence[Group], config: RankConfig, seed: int, counts: Counter[str]
) -> Iterator[Group]:
    """The same one by one; `counts` is whole behind the last.

    Raises:
        UserError: as `rank_groups`, behind the last.
    """
    counts["groups"] += len(groups)
    left: set[str] = set()
    for group in groups:
        whole = without_missing(with_places(group), counts)
        if config.max_length_gap is not None:
            whole = within_length_gap(whole, config.max_length_gap, counts)
        ranked = rank_group(whole, config.tie_margin, counts)
        if ranked is not None and config.placebo:
            ranked = with_placebo(ranked, seed, counts)
        if ranked is not None:
            left.add(ranked["split"])
            yield with_moved_ballots(select(ranked, config.select.name, config.top_k, seed))
    if not left or ("train" not in left and "train" in values_of(groups, "split")):
        reasons = ", ".join(f"{counts[reason]} {reason}" for reason in REASONS if counts[reason])
        raise UserError(
            f"no group is left to train on: {len(groups)} groups, set aside: {reasons or 'none'}; "
            "sample more responses (sample.responses_per_prompt), take a finer rule, lower "
            "rank.tie_margin or raise rank.max_length_gap."
        )
