"""A run: the stages in order. Each takes its output from the store where it is complete.

prompts -> student -> warmup -> [sample -> score -> rank -> train] x rounds -> evaluate -> report

With `rounds=0` the warm-up is all the training there is. An existing ranked set takes the place of
prompts, sample and score. PPO trains on a reward model that learns the ranking first. A re-ranker
for search goes another way, see `rankdistill.stages.reranker`.

What a stage's output depends on is in the file of its name beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rankdistill import console
from rankdistill.distributed import remarks
from rankdistill.models import recoded, recoding
from rankdistill.report import RunReport
from rankdistill.rows import Group, Prompt
from rankdistill.sample.cluster import with_cluster
from rankdistill.sample.sampler import response_seed
from rankdistill.schema import RoundReference
from rankdistill.score.ensemble import is_relative, members
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
from rankdistill.stages.score import check_scorers, score
from rankdistill.stages.student import check_models, student
from rankdistill.stages.suites import check_suites, measure_suites
from rankdistill.stages.train import train
from rankdistill.stages.validation import Validation
from rankdistill.stages.verified import Verification, is_plain, verifier_of
from rankdistill.stages.warmup import check_warmup, warm_up
from rankdistill.stages.without_training import evaluate
from rankdistill.store import Output, Store
from rankdistill.store.faults import explained


def run(
    config: DictConfig, *, planned: Callable[[settings.Settings], str] | None = None
) -> float | None:
    """The whole job of a composed configuration; ends with the verdict and the run folder's paths.

    Args:
        planned: Says, for the first line, how long a run of such settings takes.

    Returns the trained student's validation figure where a sweeper chooses points by it.
    """
    console.quiet()
    for line in remarks(os.environ, torch.accelerator.is_available()):
        console.say(line)
    store, folder = Store(), Path(HydraConfig.get().runtime.output_dir)
    with explained(store.root):
        chosen = settings.build(config)
        check_prompts(chosen)
        job = Run(chosen, store, folder)
        check_models(job)
        check_scorers(job)
        check_warmup(job)
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
    prompts = ranked_set or load(job)
    by_split = _by_split(prompts.rows())
    console.part(None)
    start = student(job, prompts)
    console.part("warmup")
    teacher_response = _teacher_response(job, by_split["train"], prompts.key)
    taught = teach(job, prompts, by_split)
    _answer_held_out(job, by_split["heldout"], prompts.key)
    warm, report.warmup_history = warm_up(job, start, prompts, taught)
    console.part(None)
    verification = _verification(job, by_split, prompts.key)
    validation = Validation(job, by_split["validation"], prompts.key, warm, ranked_set)
    trained, ranked, rewarding = warm, None, None
    grid, learning_rate = job.settings.train.learning_rate_grid, None
    for number in range(job.settings.rounds):
        if ranked_set is not None:
            ranked = _ranked_again(job, ranked_set)
        else:
            ranked = _ranked(job, trained, by_split, prompts.key, teacher_response, number)
        if verification is not None and number == 0:
            console.part("")
            students = {"warmed_up": warm} if start == warm else {"warmed_up": warm, "start": start}
            verification.before_training(students)
            console.part(None)
        if needs_reward(job.settings):
            rewarding = reward_model(job, trained, ranked)
        if job.settings.reward.only:
            break
        train_at = partial(_trained, job, trained, warm, ranked, rewarding, by_split, prompts.key)
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

    models = {"start": start, "warmed_up": warm, "trained": trained, "teacher": job.teacher}
    if ranked is None:  # nothing is ranked: the baseline is the student before the warm-up
        models["warmed_up"] = warm = start
    if start == warm:
        del models["start"]
    console.part("evaluate")
    _judge(job, report, models, by_split["heldout"], prompts.key, verification)
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
    held_out: Sequence[Prompt],
    prompts_key: str,
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
    evaluation = Evaluation(job, quick, held_out, prompts_key, models["warmed_up"])
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
    by_split: dict[str, list[Prompt]],
    prompts_key: str,
    learning_rate: float | None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The student after one round of training, and its history."""
    if rewarding is not None:
        train_prompts = by_split["train"]
        return ppo(job, student, train_prompts, prompts_key, rewarding, learning_rate=learning_rate)
    moved = job.settings.round_reference is RoundReference.moved
    reference = student if moved else warm
    return train(job, student, ranked, reference=reference, learning_rate=learning_rate)


def _by_split(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Prompt]]:
    """The prompts of each split; `plain` are the held-out ones that demand nothing."""
    names = ("train", "validation", "heldout", "plain")
    by_split: dict[str, list[Prompt]] = {name: [] for name in names}
    for row in rows:
        prompt = {key: value for key, value in row.items() if key != "responses"}
        name = "plain" if is_plain(row) else row["split"]
        by_split[name].append(prompt)  # type: ignore[arg-type]
    return by_split


def _verification(
    job: Run, by_split: dict[str, list[Prompt]], prompts_key: str
) -> Verification | None:
    """What is measured of verified answers; None where no verifier judges the evaluation."""
    suite, quick, verifier = job.settings.verified, job.settings.quick, verifier_of(job.settings)
    answered = quick is not None and not job.settings.reward.only and by_split["heldout"]
    if suite is None or quick is None or verifier is None or not answered:
        return None
    count = quick.responses_per_prompt
    return Verification(job, suite, verifier, by_split, prompts_key, count)


def _teacher_response(job: Run, prompts: Sequence[Prompt], prompts_key: str) -> Output | None:
    """The teacher's response that joins each group, where one does."""
    if not job.settings.sample.teacher_response:
        return None
    return sample(job, job.teacher, prompts, prompts_key, "teacher", 1)


def _answer_held_out(job: Run, prompts: Sequence[Prompt], prompts_key: str) -> None:
    """Have the teacher answer the held-out prompts while its engine runs, where it runs at all."""
    quick, lessons = job.settings.quick, job.settings.warmup.lessons
    if quick is not None and lessons is not None and lessons.source == "teacher":
        sample(job, job.teacher, prompts, prompts_key, "teacher", quick.responses_per_prompt)


def _ranked(
    job: Run,
    warm: Model,
    by_split: dict[str, list[Prompt]],
    prompts_key: str,
    teacher_response: Output | None,
    number: int,
) -> Output:
    """The student's responses in round `number`, scored by the teacher and ranked."""
    prompts = by_split["train"] + by_split["validation"]
    count = job.settings.sample.responses_per_prompt
    seed = response_seed(job.settings.seed, "round", number) if number else None
    sampled = sample(job, warm, prompts, prompts_key, "student", count, seed=seed)
    groups: list[Any] = sampled.rows()
    key: Any = sampled.key
    if job.settings.sample.teacher_response and teacher_response is not None:
        more = recoded(teacher_response.rows(), job.teacher, warm, whole_prompt=True)
        changed = recoding(job.teacher, warm)
        groups = _joined(groups, more)
        key = [sampled.key, teacher_response.key, *([changed] if changed else [])]
    if job.settings.sample.from_cluster:
        groups, key = with_cluster(groups), [key, "cluster 1"]
    scored = score(job, groups, key, warm, f"{len(groups)} prompts")
    groups, key = scored.rows(), scored.key
    if job.settings.sample.teacher_revision:
        groups, key = _revised(job, warm, groups, key)
    if job.settings.sample.rule_rewrite:
        groups, key = _rewritten(job, warm, groups, key)
    return rank(job, groups, key, list(members(job.settings.scorer)))


def _ranked_again(job: Run, ranked_set: Output) -> Output:
    """An existing set, ranked by the scores that it brings, or by ours beside them."""
    groups: list[Any] = ranked_set.rows()
    if not job.settings.rank.rescore:
        return rank(job, groups, ranked_set.key)
    scored = score(job, groups, ranked_set.key, job.start, f"{len(groups)} groups of the set")
    return rank(job, scored.rows(), scored.key, list(members(job.settings.scorer)))  # type: ignore[arg-type]


def _revised(job: Run, warm: Model, groups: list[Any], key: Any) -> tuple[list[Any], Any]:
    """The scored groups with the teacher's rewrite of the best response, scored as well."""
    more, more_key = revisions(job, groups, key, warm)
    what = f"{len(more)} revisions"
    if is_relative(job.settings.scorer):  # a judge of orders must see them beside the others
        bare = [{name: part for name, part in g.items() if name != "ballots"} for g in groups]
        scored = score(job, _joined(bare, more), [key, more_key], warm, what)  # type: ignore[arg-type]
        return scored.rows(), scored.key
    scored = score(job, more, more_key, warm, what)
    return _joined(groups, scored.rows()), [key, scored.key]


def _rewritten(job: Run, warm: Model, groups: list[Any], key: Any) -> tuple[list[Any], Any]:
    """The scored groups with a rule's rewrite where no response met a demand, scored as well."""
    more = rewrites(groups, warm, job.settings.sample.max_response_tokens)
    if not more:
        return groups, key
    scored = score(job, more, [key, "rewritten 1"], warm, f"{len(more)} rewrites")
    return _joined(groups, scored.rows()), [key, scored.key]


def _joined(groups: Sequence[Group], additions: Sequence[Any]) -> list[Group]:
    """The groups with the teacher's response to the same prompt added."""
    more = {group["prompt_id"]: group["responses"] for group in additions}
    return [
        {**group, "responses": group["responses"] + more.get(group["prompt_id"], [])}
        for group in groups
    ]
