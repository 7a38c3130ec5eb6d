"""A run: the stages in order. Each takes its output from the store where it is complete.

prompts -> student -> warmup -> [sample -> score -> rank -> train] x rounds -> evaluate -> report

With `rounds=0` the warm-up is all the training there is. An existing ranked set takes the place of
prompts, sample and score. PPO trains on a reward model that learns the ranking first, or without a
ranking by a verifier or the teacher. A re-ranker for search goes another way, see
`rankdistill.stages.reranker`.

What a stage's output depends on is in the file of its name beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.markup import escape

from rankdistill import console
from rankdistill.cluster.ray import check_cluster
from rankdistill.distributed import remarks
from rankdistill.models import Rows, claim_device
from rankdistill.prompts.privileged import seen_by_teacher
from rankdistill.report import RunReport
from rankdistill.sample.cluster import with_cluster
from rankdistill.sample.sampler import response_seed
from rankdistill.schema import RoundReference
from rankdistill.score.ensemble import is_relative
from rankdistill.score.rewrite import rewrites
from rankdistill.stages import settings
from rankdistill.stages.comparison import label_of
from rankdistill.stages.evaluate import check_suites, evaluate, judge, measure_suites
from rankdistill.stages.lessons import teach
from rankdistill.stages.ppo import check_ppo, ppo
from rankdistill.stages.prompts import check_prompts, load
from rankdistill.stages.rank import diagnostics, existing, rank
from rankdistill.stages.ranked import order_held_out
from rankdistill.stages.reranker import check_retrieval, train_reranker
from rankdistill.stages.revision import revisions
from rankdistill.stages.reward import Rewarding, reward_answers, reward_model
from rankdistill.stages.rounds import (
    distils,
    joined,
    needs_ranking,
    needs_reward,
    parts,
    shows_own_best,
)
from rankdistill.stages.run import Model, Run
from rankdistill.stages.run_folder import begin_report, begin_run, write_run_folder
from rankdistill.stages.sample import sample
from rankdistill.stages.score import check_conversations, check_scorers, score
from rankdistill.stages.served import check_served
from rankdistill.stages.student import check_models, student
from rankdistill.stages.token_teachers import check_routes
from rankdistill.stages.train import train
from rankdistill.stages.unused import unused
from rankdistill.stages.validation import Validation, train_at_best_rate
from rankdistill.stages.values import leave_out
from rankdistill.stages.verified import Verification, by_split_of, verification_of
from rankdistill.stages.warmup import check_warmup, warm_up
from rankdistill.stages.writers import verified_too, written_by_all
from rankdistill.store import Output, Store, home
from rankdistill.store.faults import explained, reading
from rankdistill.store.inputs import watched
from rankdistill.store.written import one_run_in
from rankdistill.train.schema import PPOTrainOptions


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
    with one_run_in(folder) if console.is_main_process() else nullcontext(), reading(home()):
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
        overrides = HydraConfig.get().overrides.task
        left_out = leave_out(config, overrides)
        chosen = settings.build(config)
        for line in (*left_out, *unused(chosen, overrides)):
            console.say(escape(line))
        check_prompts(chosen)
        run = Run(chosen, store, folder)
        check_models(run)
        check_scorers(run)
        check_warmup(run)
        check_served(run)
        check_suites(run)
        check_retrieval(run)
        if console.is_main_process():
            check_cluster(chosen.cluster)
    check_ppo(run)
    report = begin_report(run, config)
    begin_run(run, report, "" if planned is None else planned(chosen))
    console.begin(parts(chosen))
    try:
        if chosen.retrieval is not None:
            train_reranker(run, report)
        elif chosen.trains:
            return _train_and_evaluate(run, report)
        else:
            evaluate(run, report)
    finally:
        run.close_sampler()


def _train_and_evaluate(run: Run, report: RunReport) -> float | None:
    """A run that trains; returns what `run` does."""
    begun = _begin(run, report)
    verification = verification_of(run, begun.by_split)
    validation = Validation(run, begun.by_split["validation"], begun.warm, begun.ranked_set)
    done = _work_rounds(run, report, begun, verification, validation)
    folders = {"model": Path(done.student.path)}
    if done.ranked is not None:
        report.ranking = diagnostics(done.ranked)
        folders["ranked"] = done.ranked.path / "ranked"
    if done.rewarding is not None:
        report.reward_model = done.rewarding.figures(run.settings.reward.min_accuracy)
        folders["reward_model"] = Path(done.rewarding.model.path)
        if run.settings.reward.only:
            report.training_history = done.rewarding.history
            names = ("reward_model", "ranked")
            write_run_folder(run, report, {name: folders[name] for name in names})
            return None
    _evaluate(run, report, begun, done, verification)
    write_run_folder(run, report, folders)
    return validation.for_sweeper(done.student)


@dataclass(frozen=True)
class _Begun:
    """What is there before the first round."""

    by_split: dict[str, Rows]
    for_teacher: Rows
    """The train prompts, with what the teacher alone is shown."""
    ranked_set: Rows | None
    """An existing one; None: each round ranks responses of its own."""
    teacher_response: Rows | None
    start: Model
    warm: Model
    """The student after its warm-up."""


@dataclass(frozen=True)
class _Done:
    """What the last round leaves."""

    student: Model
    ranked: Output | None
    rewarding: Rewarding | None


def _begin(run: Run, report: RunReport) -> _Begun:
    """The prompts, or an existing ranked set, and the warmed-up student."""
    console.part("prompts")
    ranked_set = existing(run) if run.settings.rank.path is not None else None
    prompts = load(run) if ranked_set is None else ranked_set
    check_conversations(run, prompts)
    by_split = by_split_of(prompts)
    check_routes(run, by_split["train"])
    console.part(None)
    start = student(run, prompts)
    console.part("warmup")
    own_best = shows_own_best(run.settings)  # known after the ranking
    shown = seen_by_teacher(prompts, None if own_best else run.teachers_view)
    for_teacher = by_split if shown is prompts else by_split_of(shown)
    teacher_response = _teacher_response(run, for_teacher["train"])
    taught = teach(run, shown, for_teacher)
    _answer_held_out(run, by_split["heldout"])
    warm, report.warmup_history = warm_up(run, start, for_teacher["train"], taught)
    console.part(None)
    return _Begun(by_split, for_teacher["train"], ranked_set, teacher_response, start, warm)


def _work_rounds(
    run: Run,
    report: RunReport,
    begun: _Begun,
    verification: Verification | None,
    validation: Validation,
) -> _Done:
    """Rank and train, as often as `rounds` says."""
    grid, learning_rate = run.settings.train.learning_rate_grid, None
    done = _Done(begun.warm, None, None)
    for number in range(run.settings.rounds):
        if needs_ranking(run.settings):
            done = replace(done, ranked=_ranked(run, done.student, begun, number))
        if verification is not None and number == 0:
            _answer_before_training(verification, begun)
        if done.ranked is not None and needs_reward(run.settings):
            done = replace(done, rewarding=reward_model(run, done.student, done.ranked))
        if run.settings.reward.only:
            break
        train_at = partial(_trained, run, begun, done)
        if grid and number == 0:  # later rounds train at the rate that the first one chose
            search = train_at_best_rate(grid, validation, train_at)
            learning_rate, report.learning_rates = search.learning_rate, search.figures
            trained, history = search.trained
        else:
            trained, history = train_at(learning_rate)
        done = replace(done, student=trained)
        report.training_history = joined(report.training_history, history, number)
    return done


def _answer_before_training(verification: Verification, begun: _Begun) -> None:
    """Have the untrained students answer the held-out prompts while their engine runs."""
    console.part("")
    students = {"warmed_up": begun.warm}
    if begun.start != begun.warm:
        students["start"] = begun.start
    verification.before_training(students)
    console.part(None)


def _evaluate(
    run: Run, report: RunReport, begun: _Begun, done: _Done, verification: Verification | None
) -> None:
    """Fill the report with all that is measured of the models."""
    start, warm = begun.start, begun.warm
    models = {"start": start, "warmed_up": warm, "trained": done.student}
    if run.settings.sample.endpoint.model is None:  # a served teacher has no weights to measure
        models["teacher"] = run.teacher
    if run.settings.rounds == 0:  # the baseline is the student before the warm-up
        models["warmed_up"] = warm = start
    if start == warm:
        del models["start"]
    console.part("evaluate")
    labels = {name: label_of(name, models) for name in models}
    if (quick := run.settings.quick) is not None:
        if run.settings.rounds == 0:  # a warm-up is no training that sharpening could pass for
            quick = replace(quick, sharpening_control=False)
        judge(run, report, quick, begun.by_split["heldout"], models, labels, verification)
    run.close_sampler()
    if begun.ranked_set is not None:
        report.ranked_set = order_held_out(run, begun.ranked_set, models)
    measure_suites(run, report, models, labels)
    run.close_sampler()
    if done.rewarding is not None and report.groups:
        writers = {name: models.get(name, warm) for name in report.groups}
        answers = reward_answers(run, done.rewarding, report.groups, writers, "warmed_up")
        report.reward_model = done.rewarding.figures(run.settings.reward.min_accuracy, answers)


def _trained(
    run: Run, begun: _Begun, done: _Done, learning_rate: float | None
) -> tuple[Model, list[dict[str, Any]]]:
    """The student after one round of training, and its history."""
    if isinstance(run.settings.train, PPOTrainOptions):
        prompts = _asked(run, begun, done)
        return ppo(run, done.student, prompts, done.rewarding, learning_rate=learning_rate)
    assert done.ranked is not None
    moved = run.settings.round_reference is RoundReference.moved
    reference = done.student if moved else begun.warm
    return train(run, done.student, done.ranked, reference=reference, learning_rate=learning_rate)


def _asked(run: Run, begun: _Begun, done: _Done) -> Rows:
    """What PPO has the student answer, as the teacher sees it where it is the teacher's."""
    if not distils(run.settings):
        return begun.by_split["train"]
    if done.ranked is None or not shows_own_best(run.settings):
        return begun.for_teacher
    return seen_by_teacher(Rows.of(done.ranked).of_splits("train"), run.teachers_view)


def _teacher_response(run: Run, prompts: Rows) -> Rows | None:
    """The teacher's response that joins each group, where one does."""
    if not run.settings.sample.teacher_response:
        return None
    return sample(run, run.writing_teacher, prompts, "teacher", 1)


def _answer_held_out(run: Run, prompts: Rows) -> None:
    """Have the teacher answer the held-out prompts while its engine runs, where it runs at all."""
    quick, lessons = run.settings.quick, run.settings.warmup.lessons
    served = run.settings.sample.endpoint.model is not None
    if quick is not None and lessons is not None and lessons.source == "teacher" and not served:
        sample(run, run.teacher, prompts, "teacher", quick.responses_per_prompt)


def _ranked(run: Run, student: Model, begun: _Begun, number: int) -> Output:
    """The groups of round `number`: an existing set's, or the student's responses, ranked."""
    if begun.ranked_set is None:
        scored = _scored(run, student, begun, number)
    elif run.settings.rank.rescore:
        scored = score(run, begun.ranked_set, f"{len(begun.ranked_set)} groups of the set")
    else:
        return rank(run, begun.ranked_set)
    return rank(run, scored, list(run.settings.scorer.members))


def _scored(run: Run, student: Model, begun: _Begun, number: int) -> Rows:
    """The student's responses in round `number`, scored by the teacher."""
    settings = run.settings.sample
    both = [*begun.by_split["train"], *begun.by_split["validation"]]
    prompts = replace(begun.by_split["train"], source=both)
    seed = response_seed(run.settings.seed, "round", number) if number else None
    if settings.writers is not None:
        groups = written_by_all(run, student, prompts, seed)
    else:
        groups = sample(run, student, prompts, "student", settings.responses_per_prompt, seed=seed)
    if begun.teacher_response is not None:
        more = begun.teacher_response.recoded(student, whole_prompt=True)
        keys = [more.key] if more.key == begun.teacher_response.key else more.key
        groups = replace(groups.joined(more), key=[groups.key, *keys])
    if settings.from_cluster:
        groups = replace(groups, source=with_cluster(groups.rows), key=[groups.key, "cluster 1"])
    scored = verified_too(run, groups, score(run, groups, f"{len(groups)} prompts"))
    if settings.teacher_revision:
        scored = _revised(run, scored)
    if settings.rule_rewrite:
        scored = _rewritten(run, scored)
    return scored


def _revised(run: Run, groups: Rows) -> Rows:
    """The scored groups with the teacher's rewrite of the best response, scored as well."""
    more = revisions(run, groups)
    what = f"{len(more)} revisions"
    if is_relative(run.settings.scorer):  # a judge of orders must see them beside the others
        bare = [{name: part for name, part in g.items() if name != "ballots"} for g in groups]
        return score(run, replace(groups, source=bare).joined(more), what)
    return groups.joined(score(run, more, what))


def _rewritten(run: Run, groups: Rows) -> Rows:
    """The scored groups with a rule's rewrite where no response met a demand, scored as well."""
    assert groups.writer is not None
    rows = rewrites(groups.rows, groups.writer, run.settings.sample.max_response_tokens)
    if not rows:
        return groups
    more = replace(groups, source=rows, key=[groups.key, "rewritten 2"])
    return groups.joined(score(run, more, f"{len(rows)} rewrites"))
