"""`recipe=reranker`: a shallow cross-encoder learns to order what a search finds as an LLM does.

retrieve -> student -> score -> rank -> reward -> evaluate -> report
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from math import log2
from pathlib import Path
from statistics import median
from typing import Any

from rankdistill import console
from rankdistill.console import progress
from rankdistill.errors import UserError
from rankdistill.models import Rows, locate
from rankdistill.prompts.sources import check_source
from rankdistill.report import RunReport
from rankdistill.retrieval.search import (
    DOCSTRINGS,
    Collection,
    Retriever,
    open_retriever,
    read_collection,
    require_bm25s,
)
from rankdistill.rows import Group, row_columns
from rankdistill.score.likelihood import Reader
from rankdistill.stages.evaluate import block
from rankdistill.stages.rank import diagnostics, rank
from rankdistill.stages.retrieve import by_passage, by_query_likelihood, graded_by_teacher, retrieve
from rankdistill.stages.reward import ModelReward, Rewarding, backbone_of, read_in, reward_model
from rankdistill.stages.run import Model, Run
from rankdistill.stages.run_folder import write_run_folder
from rankdistill.stages.student import student
from rankdistill.statistics import paired_difference
from rankdistill.store import Partial
from rankdistill.suites.suite import Figure, Measured, mean_figure

CUTOFF = 10


def ndcg(order: Sequence[str], gains: Mapping[str, float], cutoff: int = CUTOFF) -> float:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002), in [0, 1].

    ``DCG = sum over the first `cutoff` of gain / log2(1 + place)``, divided by that of the best
    order of all that has a gain, also of what `order` lacks: not to retrieve costs as well.

    Args:
        order: Ids, the best first.
        gains: Of each id that has one; at least one is positive.
    """
    best = sorted(gains.values(), reverse=True)
    return _dcg([gains.get(name, 0.0) for name in order[:cutoff]]) / _dcg(best[:cutoff])


def reciprocal_rank(order: Sequence[str], gains: Mapping[str, float]) -> float:
    """1 over the place of the first passage with the highest gain; 0 below `CUTOFF`: MRR@10."""
    best = max(gains.values())
    places = (i for i, name in enumerate(order[:CUTOFF], 1) if gains.get(name, 0.0) == best)
    return 1.0 / next(places, float("inf"))


def reordered(order: Sequence[str], scores: Sequence[float]) -> list[str]:
    """By the scores, the highest first; equal ones stay as they are."""
    return [order[i] for i in sorted(range(len(order)), key=lambda i: -scores[i])]


def graded(scores: Sequence[float]) -> list[float]:
    """Gains from a teacher's scores: the share of the other passages that each is above."""
    return [sum(other < score for other in scores) / (len(scores) - 1) for score in scores]


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / log2(1 + place) for place, gain in enumerate(gains, 1))


def check_retrieval(run: Run) -> None:
    """Refuse at start-up a corpus, queries or an encoder that are not there."""
    settings = run.settings.retrieval
    if settings is None:
        return
    if run.settings.rank.path is not None:
        raise UserError(
            f"rank.path is {run.settings.rank.path}, a ranking that exists, but retrieval has the "
            "teacher rank what it finds: set one of them to null."
        )
    for what, path in (("corpus", settings.corpus), ("file of queries", settings.queries)):
        if path and path != DOCSTRINGS and not Path(path).expanduser().is_dir():
            check_source(path, what, instead=(DOCSTRINGS,))
    if settings.encoder is None:
        require_bm25s()
    else:
        locate(settings.encoder)


def train_reranker(run: Run, report: RunReport) -> None:
    """The whole run, from a corpus to the run folder with its report."""
    assert run.settings.retrieval is not None
    collection = read_collection(run.settings.retrieval)
    candidates = retrieve(run, collection)
    start = student(run, candidates)
    scored = graded_by_teacher(run, candidates)
    ranked = rank(run, scored, list(run.settings.scorer.members))
    rewarding = reward_model(run, start, ranked)
    console.part("evaluate")
    report.suites = measure_reranking(run, collection, scored, start, rewarding)
    report.ranking = diagnostics(ranked)
    report.reward_model = rewarding.figures(run.settings.reward.min_accuracy)
    report.training_history = rewarding.history
    folders = {"reward_model": Path(rewarding.model.path), "ranked": ranked.path / "ranked"}
    write_run_folder(run, report, folders)


VERSION = 1
"""Of the figures: those of different versions do not compare."""

WARM_UP = 2
"""Queries before those whose time counts."""


def measure_reranking(
    run: Run, collection: Collection, scored: Rows, warm: Model, rewarding: Rewarding
) -> dict[str, Any]:
    """The block `suites` of `metrics.json`: the retriever's order, and those that re-rank it.

    All of them order the same passages, so none finds one that the retriever did not. Where nobody
    has said which passages are relevant, the gains are the teacher's ranks, and it says so.
    """
    settings = run.settings.retrieval
    assert settings is not None
    groups = scored.of_splits("heldout").rows
    identity = {
        "code": 1,
        "suite": "reranking",
        "collection": collection.digest,
        "graded": scored.key,
        "reranker": rewarding.model.identity,
        "untrained": backbone_of(run, warm).identity,
        "seed": run.settings.seed,
        "timed_queries": settings.timed_queries,
        **read_in(rewarding.model),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        rerankers = {
            "warmed_up": ModelReward(run, backbone_of(run, warm), warm, new_head=True),
            "trained": ModelReward(run, rewarding.model, warm),
        }
        rows = []
        with progress(len(groups), "prompts") as bar:
            for group in groups:
                row: dict[str, Any] = {"teacher": [r.get("score") for r in group["responses"]]}
                row |= {name: reranker([group])[0] for name, reranker in rerankers.items()}
                rows.append({"prompt_id": group["prompt_id"], **row})
                bar.advance(1)
        partial.shards().put(rows)
        retriever = open_retriever(settings.encoder, list(collection.passages.values()))
        times = _times(run, groups, retriever, rerankers["trained"])
        (partial.path / "times.json").write_text(json.dumps(times))
        return {"queries": len(rows), "timed": len(next(iter(times.values())))}

    output = run.stage("evaluate", f"{len(groups)} queries re-ranked", identity, make)
    times = json.loads((output.path / "times.json").read_text())
    orders, gains = _orders(groups, output.rows(), collection.judged)
    label = "BM25" if settings.encoder is None else "bi-encoder"
    labels = {
        "retriever": label,
        "warmed_up": "untrained",
        "trained": "re-ranker",
        "teacher": "teacher",
    }
    figures = reranking_figures(orders, gains, times, labels, run.settings.seed)
    about = _about(groups, gains, collection)
    models = {name: block(labels[name], Measured(figures[name])) for name in labels}
    return {"reranking": {"version": VERSION, "about": about, "models": models}}


def reranking_figures(
    orders: Mapping[str, Sequence[Sequence[str]]],
    gains: Sequence[Mapping[str, float]],
    times: Mapping[str, Sequence[float]],
    labels: Mapping[str, str],
    seed: int,
) -> dict[str, list[Figure]]:
    """By name the figures of its orders.

    Args:
        orders: By name an order of ids per query; `retriever` and `warmed_up` are compared with.
        gains: By id, one mapping per query.
        times: By name milliseconds, one per timed query.
    """
    values = {
        name: [ndcg(order, gain) for order, gain in zip(of_name, gains, strict=True)]
        for name, of_name in orders.items()
    }
    found: dict[str, list[Figure]] = {}
    for name, of_name in orders.items():
        ranks = [reciprocal_rank(order, gain) for order, gain in zip(of_name, gains, strict=True)]
        found[name] = [
            mean_figure("ndcg_10", "NDCG@10", "1: all relevant first.", values[name], share=False),
            mean_figure("mrr_10", "MRR@10", "1 over the best's place.", ranks, share=False),
        ]
        for base in ("retriever", "warmed_up"):
            if name not in ("retriever", base):
                title = f"NDCG@10 minus {labels[base]}"
                told = "The mean over queries of the difference, paired."
                d = paired_difference(values[name], values[base], seed=seed)
                key, count = f"ndcg_10_minus_{base}", len(gains)
                found[name].append(
                    Figure(key, title, told, d.mean, d.low, d.high, count, share=False)
                )
        if name in times:
            told = "Median time per query, for all of its passages."
            of_query = list(times[name])
            ms = Figure(
                "ms", "ms per query", told, median(of_query), None, None, len(of_query), share=False
            )
            found[name].append(ms)
    return found


def _times(
    run: Run, groups: Sequence[Group], retriever: Retriever, reranker: ModelReward
) -> dict[str, list[float]]:
    """Milliseconds of each stage for each of some queries, one stage after the other, query by
    query, so that whatever else the machine does meets all of them alike."""
    settings = run.settings.retrieval
    assert settings is not None
    timed = list(groups[: settings.timed_queries + WARM_UP])
    teacher = _teacher_timed(run, timed)
    found: dict[str, list[float]] = {}
    for i, group in enumerate(timed):
        stages: dict[str, Callable[[], Any]] = {
            "retriever": lambda g=group: retriever.top(
                g["messages"][-1]["content"], settings.passages
            ),
            "trained": lambda g=group: reranker([g]),
        }
        if teacher is not None:
            stages["teacher"] = lambda i=i: teacher(i)
        for name, stage in stages.items():
            started = time.perf_counter()
            stage()
            if i >= min(WARM_UP, len(timed) - 1):
                found.setdefault(name, []).append(1000 * (time.perf_counter() - started))
    return found


def _teacher_timed(run: Run, groups: Sequence[Group]) -> Callable[[int], Any] | None:
    """What has the teacher read query `i` under its passages; None where it is not run here."""
    scorer: Any = run.settings.scorer
    if not by_query_likelihood(run) or scorer.through != "transformers":
        return None
    assert run.settings.retrieval is not None
    request, tokenizer = run.settings.retrieval.request, run.start.tokenizer()
    asked = [by_passage([group], request, tokenizer) for group in groups]
    groups = [group for part in asked for group in part]
    reader = Reader.load(run.teacher, groups, run.teacher_access(run.start))
    starts = [0]
    for part in asked:
        starts.append(starts[-1] + len(part))

    def read(i: int) -> Any:
        return reader.logps(range(starts[i], starts[i + 1]))[0].tolist()

    return read


def _orders(
    groups: Sequence[Group], rows: Sequence[Any], judged: bool
) -> tuple[dict[str, list[list[str]]], list[dict[str, float]]]:
    """The orders by name, and the gains, of the queries that have any gain."""
    orders: dict[str, list[list[str]]] = {}
    gains: list[dict[str, float]] = []
    for group, row in zip(groups, rows, strict=True):
        ids = row_columns(group)
        found = ids["passages"]
        gain = dict.fromkeys(ids["relevant"], 1.0)
        if not judged:
            gain = dict(zip(found, graded(row["teacher"]), strict=True))
        if not any(gain.values()):
            continue
        gains.append(gain)
        orders.setdefault("retriever", []).append(found)
        for name in ("warmed_up", "trained", "teacher"):
            orders.setdefault(name, []).append(reordered(found, row[name]))
    return orders, gains


def _about(
    groups: Sequence[Group], gains: Sequence[Mapping[str, float]], collection: Collection
) -> str:
    most = max(len(group["responses"]) for group in groups)
    told = f"{len(gains)} held-out queries, {most} of {len(collection.passages)} passages each"
    if not collection.judged:
        return f"{told}; no passage is known to be relevant: the gains are the teacher's own ranks"
    found = 0
    for group in groups:
        ids = row_columns(group)
        found += bool(set(ids["passages"]) & set(ids["relevant"]))
    return f"{told}, a relevant one among them for {found}"
