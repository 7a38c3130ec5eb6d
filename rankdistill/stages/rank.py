"""The rank stage: a table of ranked groups, from scores or from an existing ranked set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.models import Rows, tokenizer_digest
from rankdistill.prompts import source_identity
from rankdistill.prompts.splits import require_splits
from rankdistill.rank import ranked_groups
from rankdistill.rank.combine import combine, debiased
from rankdistill.rank.diagnostics import LITTLE_AGREEMENT, diagnose, writer_figures
from rankdistill.rank.existing import parts, read_ranked
from rankdistill.rank.write import write_table
from rankdistill.stages.prompts import (
    contamination_identity,
    evaluated_by,
    mixture_identity,
    read_set,
)
from rankdistill.stages.run import Run
from rankdistill.store import Output, Partial
from rankdistill.store.inputs import sha256, watch
from rankdistill.store.written import check_run, is_run_folder

DIAGNOSTICS = "diagnostics.json"
"""How far the ranking can be trusted; beside `ranked/` in the output."""


def rank(run: Run, groups: Rows, scorers: Sequence[str] | None = None) -> Output:
    """The ranked groups; the output's `ranked/` is a data set that others can load.

    Args:
        scorers: Names of the scorers that this run asked; None if the scores come with the data.

    Raises:
        UserError: no group is left, or the scorers agree less than `rank.min_agreement`.
    """
    settings = run.settings.rank
    weights = settings.weights
    if weights is not None and not isinstance(weights, dict):
        raise UserError(
            f"rank.weights is {weights}: give a number per scorer, as in "
            "'rank.weights={judge: 2}'."
        )
    if scorers is not None:
        weights = dict.fromkeys(scorers, 1.0) | dict(settings.weights or {})
    how, chosen = settings.aggregate.name, settings.select.name
    draws = settings.placebo or chosen in ("best_random", "random_k")
    identity = {
        "code": 2,
        "groups": groups.key,
        "weights": weights,
        "aggregate": how,
        "length_debias": settings.length_debias,
        "tie_margin": settings.tie_margin,
        "select": chosen,
        "top_k": settings.top_k if chosen in ("top_k", "random_k", "spread") else None,
        "seed": run.settings.seed if draws else None,
        **({"placebo": True} if settings.placebo else {}),
        **({} if settings.max_length_gap is None else {"max_length_gap": settings.max_length_gap}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        rows = groups.rows
        scored = combine(rows, weights, how)
        slope = None
        if settings.length_debias:
            scored, slope = debiased(scored)
        counts: Counter[str] = Counter()
        shards = partial.shards()
        shards.put(ranked_groups(scored, settings, run.settings.seed, counts))
        written_by = tokenizer_digest(run.start.tokenizer())
        write_table(shards.rows(), partial.path / "ranked", written_by)
        found = {"aggregate": how, "weights": weights, "length_slope": slope}
        found = diagnose(rows) | {"writers": writer_figures(scored)} | found
        (partial.path / DIAGNOSTICS).write_text(json.dumps(found, indent=1), encoding="utf-8")
        return dict(counts)

    what = f"{len(groups)} groups ({chosen}{', placebo' if settings.placebo else ''})"
    output = run.stage("rank", what, identity, make)
    figures = diagnostics(output)
    _require_agreement(figures, settings.min_agreement)
    _tell_little_agreement(figures)
    return output


def diagnostics(ranked: Output) -> dict[str, Any]:
    """How far a ranking can be trusted; see `rankdistill.rank.diagnostics`."""
    return json.loads((ranked.path / DIAGNOSTICS).read_text(encoding="utf-8"))


def _require_agreement(figures: Mapping[str, Any], least: float | None) -> None:
    if least is None:
        return
    alpha, raters = figures["validation"], figures["raters"]
    if alpha is None:
        raise UserError(
            f"rank.min_agreement is {least}, and there is no agreement to measure on the "
            "validation split: it takes two scorers (score=ensemble) or a judge of orders "
            "(score.mode), and validation prompts (prompts.limit.validation)."
        )
    if alpha < least:
        raise UserError(
            f"The {raters} agree too little to train on: Krippendorff's alpha is {alpha:.2f} on "
            f"the validation split, below rank.min_agreement={least}; look at the most disputed "
            "prompts in diagnostics.json, and take a better judge or clearer criteria."
        )


def _tell_little_agreement(figures: Mapping[str, Any]) -> None:
    """Before the training, which would be on noise; the report says it after."""
    alpha = figures["alpha"]
    if alpha is not None and alpha < LITTLE_AGREEMENT:
        result(
            f"the {figures['raters']} agree with Krippendorff's alpha {alpha:.2f}, which is close "
            "to chance: the ranking is mostly noise (rank.min_agreement stops such a run)"
        )


def existing(run: Run) -> Rows:
    """The groups of `rank.path` with their scores, split and limited as prompts are.

    Raises:
        UserError: No such set, a row that is not ranked, or no group to train on or to report on.
    """
    settings, prompts = run.settings.rank, run.settings.prompts
    identity = {
        "code": 4,
        "source": mixture_identity(settings.sets, _identity),
        **contamination_identity(prompts),
        **({"columns": dict(settings.columns)} if settings.columns else {}),
        **({"split_column": prompts.split_column} if prompts.split_column != "split" else {}),
        "column": prompts.column,
        **({"keep": list(prompts.keep)} if prompts.keep else {}),
        "score_column": settings.score_column,
        "responses_per_prompt": settings.responses_per_prompt,
        "max_response_tokens": settings.max_response_tokens,
        "max_prompt_tokens": prompts.max_prompt_tokens,
        "splits": asdict(prompts.splits),
        "limit": asdict(prompts.limit),
        "tokenizer": run.start.tokenizer_identity,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        evaluated, spool = evaluated_by(prompts), partial.scratch / "read"
        groups, counts = read_ranked(settings, prompts, run.start.tokenizer(), evaluated, spool)
        partial.shards().put(groups)
        return counts

    what = f"{settings.named} (an existing ranked set)"
    output = read_set(run, "rank", what, identity, make)
    groups = Rows.of(output, run.start)
    require_splits(groups.counts, f"rank.path '{settings.named}'", "train", "heldout")
    return groups


def _identity(path: str) -> dict[str, Any]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return source_identity(path, ())
    if folder.name == "ranked" and is_run_folder(folder.parent):
        check_run(folder.parent, folder.name)
    watch(folder, lambda: _names(folder), lambda: " ".join(_names(folder)))  # a part more or less
    return {part.name: sha256(part) for part in parts(folder)}


def _names(folder: Path) -> list[str]:
    return [part.name for part in parts(folder)]
