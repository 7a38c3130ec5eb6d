"""The rank stage: a table of ranked groups, from scores or from an existing ranked set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.models import load_tokenizer
from rankdistill.prompts import source_identity
from rankdistill.rank import rank_groups
from rankdistill.rank.existing import read_ranked
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


def existing(run: Run) -> Output:
    """The ranked set of `rank.path`, split like prompts where its rows name no split."""
    path = run.settings.rank.path or ""
    tokenizer = load_tokenizer(run.start.path)
    groups = read_ranked(path, tokenizer, asdict(run.settings.prompts.splits))
    return rank(run, groups, {"source": _identity(path), "tokenizer": dict(run.start.identity)})


def _identity(path: str) -> dict[str, Any]:
    folder = Path(path)
    if not folder.is_dir():
        return source_identity(path)
    parts = sorted([*folder.glob("*.parquet"), *folder.glob("*.jsonl")])
    return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}
