"""The rank stage: a table of ranked groups, from scores or from an existing ranked set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.rank import rank_groups
from rankdistill.rank.table import write_table
from rankdistill.records import Group
from rankdistill.run import Run
from rankdistill.store import Output, Partial


def rank(run: Run, groups: Sequence[Group], groups_key: Any) -> Output:
    """The ranked groups; the output's `ranked/` is a data set that others can load.

    Args:
        groups_key: What determines `groups`.
    """
    settings = run.settings.rank
    identity = {
        "code": 1,
        "groups": groups_key,
        "tie_margin": settings.tie_margin,
        "select": settings.select.name,
        "top_k": settings.top_k if settings.select.name == "top_k" else None,
        "seed": run.settings.seed if settings.select.name == "best_random" else None,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        ranked, counts = rank_groups(groups, settings, run.settings.seed)
        partial.shards().append(ranked)
        write_table(ranked, partial.path / "ranked")
        return dict(counts)

    return run.stage("rank", f"{len(groups)} groups ({settings.select.name})", identity, make)
