"""The rank stage: a table of ranked groups, from scores or from an existing ranked set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import load_tokenizer
from rankdistill.prompts import source_identity
from rankdistill.rank import rank_groups
from rankdistill.rank.existing import parts, read_ranked
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
        partial.shards().put(ranked)
        write_table(ranked, partial.path / "ranked")
        return dict(counts)

    return run.stage("rank", f"{len(groups)} groups ({settings.select.name})", identity, make)


def existing(run: Run) -> Output:
    """The groups of `rank.path` with their scores, split and limited as prompts are.

    Raises:
        UserError: No such set, a row that is not ranked, or no group to train on or to report on.
    """
    settings, prompts = run.settings.rank, run.settings.prompts
    identity = {
        "code": 1,
        "source": _identity(settings.path or ""),
        "column": prompts.column,
        "score_column": settings.score_column,
        "responses_per_prompt": settings.responses_per_prompt,
        "max_response_tokens": settings.max_response_tokens,
        "max_prompt_tokens": prompts.max_prompt_tokens,
        "splits": asdict(prompts.splits),
        "limit": asdict(prompts.limit),
        "tokenizer": dict(run.start.identity),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        groups, counts = read_ranked(settings, prompts, load_tokenizer(run.start.path))
        partial.shards().put(groups)
        return counts

    output = run.stage("rank", f"{settings.path} (an existing ranked set)", identity, make)
    for split in ("train", "heldout"):
        if not output.manifest["counts"].get(split):
            raise UserError(
                f"rank.path '{settings.path}' leaves no prompt for the {split} split: give more "
                f"rows, or a larger prompts.splits.{split}."
            )
    return output


def _identity(path: str) -> dict[str, Any]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return source_identity(path)
    return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts(folder)}
