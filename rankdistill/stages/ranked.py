"""The suite `ranked`: every student's log-probabilities of the held-out groups of a ranked set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from rankdistill.evaluate.ranked import RankedSet, Ranking, by_prompt
from rankdistill.evaluate.tokens import batches_of, policy_values
from rankdistill.forward import bind
from rankdistill.models import Rows
from rankdistill.rank import rank_group
from rankdistill.rows import Group
from rankdistill.stages.comparison import called, label_of
from rankdistill.stages.run import Model, Run
from rankdistill.store import Partial
from rankdistill.store.sequences import mapped, selected


def order_held_out(run: Run, imported: Rows, models: Mapping[str, Model]) -> RankedSet | None:
    """What the students make of the held-out groups; None where the suite is not asked for.

    Args:
        imported: The imported set: whole groups, whatever `rank.select` trains on.
        models: By the name in the report; the teacher is left out.
    """
    suite = run.settings.ranked
    if suite is None:
        return None
    groups = _groups(run, imported, "heldout")
    names = [name for name in models if name != "teacher"]
    return RankedSet(
        name=run.settings.rank.named,
        length_match=suite.length_match,
        rankings=[_ranking(group) for group in groups],
        labels={name: label_of(name, models) for name in names},
        mean_logps={name: _values(run, models[name], name, groups) for name in names},
        cut=sum(r["finish_reason"] == "length" for g in groups for r in g["responses"]),
    )


def pair_accuracy(run: Run, imported: Rows, model: Model, name: str, split: str) -> float | None:
    """Share of a split's pairs that `model` orders as they are ranked, a mean over its groups."""
    groups = _groups(run, imported, split)
    rankings = [_ranking(group) for group in groups]
    shares = by_prompt(rankings, _values(run, model, name, groups, split))
    return fmean(shares.values()) if shares else None


def _groups(run: Run, imported: Rows, split: str) -> Rows:
    margin = run.settings.rank.tie_margin
    ranked = mapped(imported.of_splits(split).rows, lambda row: rank_group(row, margin, Counter()))
    places = [place for place, group in enumerate(ranked) if group is not None]
    return replace(imported, source=selected(ranked, places))


def _ranking(group: Group) -> Ranking:
    responses = group["responses"]
    tokens = [len(r["token_ids"]) for r in responses]
    whole = [r.get("whole_tokens") or n for r, n in zip(responses, tokens, strict=True)]
    return Ranking(group["prompt_id"], [r.get("rank", 0) for r in responses], tokens, whole)


def _values(
    run: Run, model: Model, name: str, groups: Rows, split: str = "heldout"
) -> list[list[float]]:
    """[group][response] mean log-probability, nats per token."""
    settings = run.settings
    identity = {
        "code": 1,
        "suite": "ranked",
        "model": model.identity,
        "groups": groups.key,
        "tie_margin": settings.rank.tie_margin,
        "layout": settings.train.layout.name,
        "precision": settings.student.precision.name,
        **({} if split == "heldout" else {"split": split}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        layout = settings.train.layout.name
        most = settings.ranked.max_batch_tokens if settings.ranked else 4096
        batches = batches_of(groups.tokens(model), max_batch_tokens=most, layout=layout)
        run.hold_models()
        values = policy_values(bind(model.load_on_device(), layout), batches)
        rows = zip(groups, values, strict=True)
        partial.shards().put([{"prompt_id": g["prompt_id"], "values": v} for g, v in rows])
        return {"groups": len(groups)}

    where = "held-out" if split == "heldout" else split
    what = f"{called(name, run.settings)}: its order of {len(groups)} {where} groups"
    return [row["values"] for row in run.stage("evaluate", what, identity, make).rows()]
