"""`recipe=reranker`: a shallow cross-encoder learns to order what a search finds as an LLM does.

retrieve -> student -> score -> rank -> reward -> evaluate -> report
"""

from __future__ import annotations

from pathlib import Path

from rankdistill import console
from rankdistill.errors import UserError
from rankdistill.models import locate
from rankdistill.prompts.sources import check_source
from rankdistill.report import RunReport
from rankdistill.retrieval.data import DOCSTRINGS, read_collection
from rankdistill.retrieval.retrievers import require_bm25s
from rankdistill.stages.rank import diagnostics, rank
from rankdistill.stages.reranking import measure_reranking
from rankdistill.stages.retrieve import graded_by_teacher, retrieve
from rankdistill.stages.reward import reward_model
from rankdistill.stages.run import Run
from rankdistill.stages.run_folder import write_run_folder
from rankdistill.stages.student import student


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
    for path in filter(None, (settings.corpus, settings.queries)):
        if path != DOCSTRINGS:
            check_source(path)
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
