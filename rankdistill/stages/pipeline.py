"""A run: the stages in order. Each takes its output from the store where it is complete.

prompts -> student -> warmup -> [sample -> score -> rank -> train] x rounds -> evaluate -> report

With `rounds=0` the warm-up is all the training there is. An existing ranked set takes the place of
prompts, sample and score. PPO trains on a reward model that learns the ranking first. A re-ranker
for search goes another way, see `rankdistill.stages.reranker`.

What a stage's output depends on is in the file of its name beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rankdistill import console
from rankdistill.distributed import remarks
from rankdistill.models import Rows, claim_device
from rankdistill.report import RunReport
from rankdistill.sample.cluster import with_cluster
from rankdistill.sample.sampler import response_seed
from rankdistill.schema import RoundReference
from rankdistill.score.ensemble import is_relative
from rankdistill.score.rewrite import rewrites
from rankdistill.stages import settings
from rankdistill.stages.comparison import label_of
from rankdistill.stages.evaluate import Evaluation
from rankdistill.stages.grid import train_at_best_rate
from rankdistill.stages.lessons import teach
from rankdistill.stages.parts import parts
from rankdistill.stages.ppo import check_ppo, ppo
from rankdistill.stages.prompts import check_prompts, load
from rankdistill.stages.rank import diagnostics, existing, rank
from rankdistill.stages.ranked import order_held_out
from rankdistill.stages.reranker import check_retrieval, train_reranker
from rankdistill.stages.revision import revisions
from rankdistill.stages.reward import Rewarding, reward_answers, reward_model
from rankdistill.stages.rounds import joined, needs_reward
from rankdistill.stages.run import Model, Run
from rankdistill.stages.run_folder import begin_report, begin_run, write_run_folder
from rankdistill.stages.sample import sample
from rankdistill.stages.score import check_conversations, check_scorers, score
from rankdistill.stages.seen import seen_by_teacher
from rankdistill.stages.served import check_served
from rankdistill.stages.student import check_models, student
from rankdistill.stages.suites import check_suites, measure_suites
from rankdistill.stages.train import train
from rankdistill.stages.validation import Validation
from rankdistill.stages.verified import Verification, by_split_of, verification_of
from rankdistill.stages.warmup import check_warmup, warm_up
from rankdistill.stages.without_training import evaluate
from rankdistill.stages.writers import verified_too, written_by_all
from rankdistill.store import Output, Store
from rankdistill.store.faults import explained
from rankdistill.store.inputs import watched
from rankdistill.store.written import one_run_in


@watched()
def run(
    config: DictConfig, *, planned: Callable[[settings.Settings], str] | None = None
) -> float | None:
    """The whole job of a composed configuration; ends with the verdict and the run folder's paths.

    Args:
        planned: Says, for the first line, how long a run of such settings takes.

    Returns the trained student's validation figure where a sweeper chooses points by it.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    with one_run_in(folder) if console.is_main_process() else nullcontext():
        return _whole_run(config, folder, planned)


def _whole_run(
    config: DictConfig, folder: Path, planned: Callable[[settings.Settings], str] | None
) -> float | None:
    console.quiet()
    claim_device()
    for line in remarks(os.environ, torch.accelerator.is_available()):
        console.say(line)
    store = Store()
    with explained(store.root):
        chosen = settings.build(config)
        check_prompts(chosen)
        job = Run(chosen, store, folder)
        check_models(job)
        check_scorers(job)
        check_warmup(job)
        check_served(job)
        check_suites(job)
        check_retrieval(job)
    check_ppo(job)
    report = begin_report(job, config)
    begin_run(job, report, "" if planned is None else planned(chosen))
    console.begin(parts(chosen))
    try:
        if chosen.retrieval is not None:
            train_reranker(job, report)
        elif chosen.trains:
            return _run(job, report)
        else:
            evaluate(job, report)
    finally:
        job.close_sampler()


def _run(job: Run, report: RunReport) -> float | None:
    console.part("prompts")
    ranked_set = existing(job) if job.settings.rank.path is not None else None
    prompts = load(job) if ranked_set is None else ranked_set
    check_conversations(job, prompts)
    by_split = by_split_of(prompts)
    console.part(None)
    start = student(job, prompts)
    console.part("warmup")
    shown = seen_by_teacher(prompts, job.teachers_view)
    for_teacher = by_split if shown is prompts else by_split_of(shown)
    teacher_response = _teacher_response(job, for_teacher["train"])
    taught = teach(job, shown, for_teacher)
    _answer_held_out(job, by_split["heldout"])
    warm, report.warmup_history = warm_up(job, start, for_teacher["train"], taught)
    console.part(None)
    verification = verification_of(job, by_split)
    validation = Validation(job, by_split["validation"], warm, ranked_set)
    trained, ranked, rewarding = warm, None, None
    grid, learning_rate = job.settings.train.learning_rate_grid, None
    for number in range(job.settings.rounds):
        if ranked_set is not None:
            ranked = _ranked_again(job, ranked_set)
        else:
            ranked = _ranked(job, trained, by_split, teacher_response, number)
        if verification is not None and number == 0:
            console.part("")
            students = {"warmed_up": warm} if start == warm else {"warmed_up": warm, "start": start}
            verification.before_training(students)
            console.part(None)
        if needs_reward(job.settings):
            rewarding = reward_model(job, trained, ranked)
        if job.settings.reward.only:
            break
        train_at = partial(_trained, job, trained, warm, ranked, rewarding, by_split["train"])
        if grid and number == 0:  # later rounds train at the rate that the first one chose
            search = train_at_best_rate(grid, validation, train_at)
            learning_rate, report.learning_rates = search.learning_rate, search.figures
            trained, rows = search.trained
        else:
            trained, rows = train_at(learning_rate)
        report.training_history = joined(report.training_history, rows, number)
    folders = {"model": Path(trained.path)}
    if ranked is not None:
        report.ranking = diagnostics(ranked)
        folders["ranked"] = ranked.path / "ranked"
    if rewarding is not None:
        report.reward_model = rewarding.figures(job.settings.reward.min_accuracy)
        folders["reward_model"] = Path(rewarding.model.path)
    if rewarding is not None and job.settings.reward.only:
        report.training_history = rewarding.history
        names = ("reward_model", "ranked")
        write_run_folder(job, report, {name: folders[name] for name in names})
        return None

    models = {"start": start, "warmed_up": warm, "trained": trained}
    if job.settings.sample.endpoint.model is None:  # a served teacher has no weights to measure
        models["teacher"] = job.teacher
    if ranked is None:  # nothing is ranked: the baseline is the student before the warm-up
        models["warmed_up"] = warm = start
    if start == warm:
        del models["start"]
    console.part("evaluate")
    _judge(job, report, models, by_split["heldout"], verification)
    job.close_sampler()
    if ranked_set is not None:
        report.ranked_set = order_held_out(job, ranked_set, models)
    labels = {name: label_of(name, models) for name in models}
    report.suites = measure_suites(job, models, labels)
    job.close_sampler()
    if rewarding is not None and report.groups:
        writers = {name: models.get(name, warm) for name in report.groups}
        answers = reward_answers(job, rewarding, report.groups, writers, "warmed_up")
        report.reward_model = rewarding.figures(job.settings.reward.min_accuracy, answers)
    write_run_folder(job, report, folders)
    return validation.for_sweeper(trained)


def _judge(
    job: Run,
    report: RunReport,
    models: Mapping[str, Model],
    held_out: Rows,
    verification: Verification | None,
) -> None:
    """Fill the report with what the judge, and a verifier, say of the models' answers."""
    quick = job.settings.quick
    if quick is None:
        return
    if report.ranking is None:  # a warm-up is no ranking that sharpening could pass for
        quick = replace(quick, sharpening_control=False)
    if verification is not None:
        verification.sample(models)
    evaluation = Evaluation(job, quick, held_out, models["warmed_up"])
    report.models, report.groups = evaluation.compare(models)
    if verification is not None:
        headings = {name: label_of(name, models) for name in models}
        sharpened = report.temperature("sharpened")
        report.verified = verification.measure(models, headings, sharpened)


def _trained(
    job: Run,
    student: Model,
    warm: Model,
    ranked: Output,
    rewarding: Rewarding | None,
    prompts: Rows,
    learning_rate: float | None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The student after one round of training, and its history."""
    if rewarding is not None:
        return ppo(job, student, prompts, rewarding, learning_rate=learning_rate)
    moved = job.settings.round_reference is RoundReference.moved
    reference = student if moved else warm
    return train(job, student, ranked, reference=reference, learning_rate=learning_rate)


def _teacher_response(job: Run, prompts: Rows) -> Rows | None:
    """The teacher's response that joins each group, where one does."""
    if not job.settings.sample.teacher_response:
        return None
    return sample(job, job.writing_teacher, prompts, "teacher", 1)


def _answer_held_out(job: Run, prompts: Rows) -> None:
    """Have the teacher answer the held-out prompts while its engine runs, where it runs at all."""
    quick, lessons = job.settings.quick, job.settings.warmup.lessons
    served = job.settings.sample.endpoint.model is not None
    if quick is not None and lessons is not None and lessons.source == "teacher" and not served:
        sample(job, job.teacher, prompts, "teacher", quick.responses_per_prompt)


def _ranked(
    job: Run, warm: Model, by_split: dict[str, Rows], teacher_response: Rows | None, number: int
) -> Output:
    """The student's responses in round `number`, scored by the teacher and ranked."""
    settings = job.settings.sample
    both = [*by_split["train"], *by_split["validation"]]
    prompts = replace(by_split["train"], source=both)
    seed = response_seed(job.settings.seed, "round", number) if number else None
    if settings.writers is not None:
        groups = written_by_all(job, warm, prompts, seed)
    else:
        groups = sample(job, warm, prompts, "student", settings.responses_per_prompt, seed=seed)
    if teacher_response is not None:
        more = teacher_response.recoded(warm, whole_prompt=True)
        keys = [more.key] if more.key == teacher_response.key else more.key
        groups = replace(groups.joined(more), key=[groups.key, *keys])
    if settings.from_cluster:
        groups = replace(groups, source=with_cluster(groups.rows), key=[groups.key, "cluster 1"])
    scored = verified_too(job, groups, score(job, groups, f"{len(groups)} prompts"))
    if settings.teacher_revision:
        scored = _revised(job, scored)
    if settings.rule_rewrite:
        scored = _rewritten(job, scored)
    return rank(job, scored, list(job.settings.scorer.members))


def _ranked_again(job: Run, ranked_set: Rows) -> Output:
    """An existing set, ranked by the scores that it brings, or by ours beside them."""
    if not job.settings.rank.rescore:
        return rank(job, ranked_set)
    scored = score(job, ranked_set, f"{len(ranked_set)} groups of the set")
    return rank(job, scored, list(job.settings.scorer.members))


def _revised(job: Run, groups: Rows) -> Rows:
    """The scored groups with the teacher's rewrite of the best response, scored as well."""
    more = revisions(job, groups)
    what = f"{len(more)} revisions"
    if is_relative(job.settings.scorer):  # a judge of orders must see them beside the others
        bare = [{name: part for name, part in g.items() if name != "ballots"} for g in groups]
        return score(job, replace(groups, source=bare).joined(more), what)
    return groups.joined(score(job, more, what))


def _rewritten(job: Run, groups: Rows) -> Rows:
    """The scored groups with a rule's rewrite where no response met a demand, scored as well."""
    assert groups.writer is not None
    rows = rewrites(groups.rows, groups.writer, job.settings.sample.max_response_tokens)
    if not rows:
        return groups
    more = replace(groups, source=rows, key=[groups.key, "rewritten 1"])
    return groups.joined(score(job, more, f"{len(rows)} rewrites"))
