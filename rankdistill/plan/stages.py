"""The stages of a run, in the order of `rankdistill.stages.pipeline`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rankdistill.bench.flops import Work, sequences
from rankdistill.plan.memory import ADAM, forward_memory, model_bytes
from rankdistill.plan.planner import PASSES, Planner, precise
from rankdistill.plan.served import QUESTION, judged, written
from rankdistill.plan.served import read as read_by_servers
from rankdistill.plan.shapes import Shape
from rankdistill.plan.stage import PlannedStage, cost, times
from rankdistill.plan.suites import suites
from rankdistill.score.schema import JudgeEndpoint
from rankdistill.score.scorer import Questions, Scorer
from rankdistill.stages.rounds import method, needs_ranking, needs_reward
from rankdistill.stages.verified import verifier_of
from rankdistill.warmup.teacher_cache import CacheSpec


def stages(planner: Planner) -> list[PlannedStage]:
    """All stages; those of several rounds once, with the work of all of them."""
    return [*_before(planner), *_warmup(planner), *_rounds(planner), *_evaluation(planner)]


def _before(planner: Planner) -> Iterator[PlannedStage]:
    settings = planner.settings
    if settings.student.keep_layers is not None:
        yield _student(planner)
    if settings.rank.path is None and settings.sample.teacher_response:
        yield _by_teacher(planner, planner.counts.train, 1)


def _by_teacher(planner: Planner, prompts: int, each: int) -> PlannedStage:
    """Responses of the teacher, by an engine here or by a server elsewhere."""
    if planner.settings.sample.endpoint.model is not None:
        return written(planner, "teacher", prompts, each)
    return planner.sampling("teacher", planner.teacher, prompts, each)


def _student(planner: Planner) -> PlannedStage:
    settings = planner.settings
    whole = settings.student.path or settings.teacher.path
    shape = planner.shape(whole, settings.student)
    memory = forward_memory(
        shape,
        precise(settings.student.precision),
        None,
        planner.counts.longest_prompt,
        1,
        on_gpu=False,  # of one row of logits
    )
    return PlannedStage(
        "student", f"{settings.student.keep_layers} of {shape.layers} layers", shape.parameters,
        planner.done(memory), 0, 0, 2 * planner.hardware.start_seconds, disk=planner.saved,
    )  # fmt: skip


def _warmup(planner: Planner) -> Iterator[PlannedStage]:
    warmup: Any = planner.settings.warmup
    lessons, counts = warmup.lessons, planner.counts
    if lessons is None:
        return
    if lessons.source == "conversations":
        yield _conversations(planner)
        return
    each = lessons.responses_per_prompt
    train = min(warmup.max_prompts or counts.train, counts.train)
    if lessons.source == "teacher" and each:
        prompts = train + counts.validation
        yield _by_teacher(planner, prompts, each)
    rounds = warmup.rounds or 1
    if warmup.rounds is not None:
        asked = round(rounds * warmup.student_share * train)
        yield planner.sampling("student, in rounds", planner.student, asked, 1)
    rows = train * (1 if lessons.keep == "best" or not each else each)
    stored = warmup.stored
    if stored is not None:
        yield _teacher_outputs(planner, stored, rows)
    head = "distilled" if warmup.distils else "whole"
    yield _lessons(planner, rows, rounds, head=head, live=not stored)


def _teacher_outputs(planner: Planner, stored: Any, rows: int) -> PlannedStage:
    settings, teacher = planner.settings, planner.teacher
    spec = CacheSpec(
        stored["kind"],
        vocabulary=min(teacher.vocabulary, planner.student.vocabulary),
        k=stored.get("k", 0),
        temperatures=tuple(stored.get("temperatures", ())),
        hidden_size=teacher.hidden,
        hidden_bytes=2 if precise(settings.teacher.precision) != "float32" else 4,
    )
    work = times(planner.group(1, "packed"), rows)
    warmup: Any = settings.warmup
    return planner.reading(
        "teacher", f"outputs ({stored['kind']}) on {rows:,} responses", teacher, settings.teacher,
        work, disk=work.rows * spec.bytes_per_token, max_batch_tokens=warmup.max_batch_tokens,
    )  # fmt: skip


def _lessons(planner: Planner, rows: int, rounds: int, *, head: str, live: bool) -> PlannedStage:
    """The warm-up on responses: distillation with the teacher beside it, or SFT."""
    warmup: Any = planner.settings.warmup
    counts = planner.counts
    work = times(planner.group(1, "packed"), rows)
    step = -(-warmup.responses_per_step // planner.hardware.devices)
    others = extra = 0.0
    if head == "distilled" and live:
        others = planner.held(planner.teacher, planner.settings.teacher)
        extra = work.inference(cost(planner.teacher)) * warmup.epochs * rounds
    return planner.training(
        "warmup", f"{type(warmup).__name__} on {rows:,} responses", warmup, work,
        steps=-(-rows // warmup.responses_per_step), tokens=round(step * counts.group), head=head,
        layout="padded" if head == "whole" else None, epochs=warmup.epochs * rounds, others=others,
        extra_flops=extra, least=counts.longest_prompt + counts.longest_response,
    )  # fmt: skip


def _conversations(planner: Planner) -> PlannedStage:
    """SFT on conversations: every token is a row of logits, rows are padded to the longest."""
    warmup: Any = planner.settings.warmup
    rows, longest = planner.counts.conversations, warmup.own_conversations.max_tokens
    length = round(min(longest, planner.plan.response_tokens or longest))
    work = sequences(rows, 0, length)
    share = -(-warmup.responses_per_step // planner.hardware.devices)
    return planner.training(
        "warmup", f"SFT on {rows:,} conversations", warmup, work,
        steps=-(-rows // warmup.responses_per_step), tokens=share * longest, head="whole",
        layout="padded", epochs=warmup.epochs, least=longest,
    )  # fmt: skip


def _rounds(planner: Planner) -> Iterator[PlannedStage]:
    settings, counts = planner.settings, planner.counts
    rounds = settings.rounds
    if not rounds:
        return
    for stage in _round(planner, counts.train + counts.validation):
        yield _repeated(stage, rounds)


def _repeated(stage: PlannedStage, rounds: int) -> PlannedStage:
    if rounds == 1:
        return stage
    return replace(
        stage,
        what=f"{stage.what}, {rounds} rounds",
        tokens=stage.tokens * rounds,
        flops=stage.flops * rounds,
        seconds=stage.seconds * rounds,
        disk=stage.disk * rounds,
    )


def _round(planner: Planner, prompts: int) -> Iterator[PlannedStage]:
    settings, counts = planner.settings, planner.counts
    if needs_ranking(settings):
        if settings.rank.path is None:
            yield from _written(planner, prompts)
        if settings.rank.path is None or settings.rank.rescore:
            for scorer in settings.scorer.members.values():
                yield from _scored(planner, scorer, prompts, counts.responses)
        yield _ranked(planner, prompts)
    if needs_reward(settings):
        yield _reward(planner)
    if settings.reward.only:
        return
    if planner.is_ppo:
        yield from _ppo(planner)
        return
    objective: Any = settings.objective
    group = planner.group(planner.epoch_group)
    if objective.needs_reference:
        yield planner.reading(
            "reference", f"{prompts:,} groups", planner.student, settings.student,
            times(group, prompts), max_batch_tokens=settings.train.max_batch_tokens,
            group="student",
        )  # fmt: skip
    yield _trained(planner, "train", settings.train, group, type(objective).__name__)


def _scored(planner: Planner, scorer: Scorer, prompts: int, each: int) -> Iterator[PlannedStage]:
    """Scores of groups by a model of this machine or of an endpoint; rules take nothing here."""
    settings = planner.settings
    work = times(planner.group(each), prompts)
    questions = scorer.questions(each)
    if not scorer.runs_here:
        if questions is not None and isinstance(scorer, JudgeEndpoint):
            yield judged(planner, scorer, questions, prompts, each)
        return
    if questions is not None:
        yield judging(planner, scorer.model, questions, prompts)
        return
    own = scorer.model
    yield planner.reading(
        "score", f"{prompts:,} groups of {each} by {scorer.name}",
        planner.teacher if own is None else planner.shape(own, scorer),
        settings.teacher if own is None else scorer, work,
        max_batch_tokens=scorer.max_batch_tokens,
    )  # fmt: skip


def _written(planner: Planner, prompts: int) -> Iterator[PlannedStage]:
    """The responses of each writer."""
    settings = planner.settings
    for name, each in settings.sample.counts_of_writers.items():
        if name == "endpoint":
            yield written(planner, name, prompts, each)
            continue
        known = {"student": planner.student, "teacher": planner.teacher}
        shape = known.get(name) or planner.shape(name, settings.teacher)
        yield planner.sampling(name, shape, prompts, each)


def _ranked(planner: Planner, prompts: int) -> PlannedStage:
    """No model; twice on disk, as rows and as a table for others: text, token ids, scores."""
    counts = planner.counts
    each = counts.prompt * 4 + counts.responses * (counts.response * 10 + 300)
    return PlannedStage(
        "rank", f"{prompts:,} groups", 0, planner.done(),
        0, 0, 1, disk=2 * prompts * each,
    )  # fmt: skip


def _trained(
    planner: Planner, name: str, options: Any, group: Work, what: str, **more: Any
) -> PlannedStage:
    train = planner.counts.train
    share = -(-options.prompts_per_step // planner.hardware.devices)
    return planner.training(
        name, f"{what} on {train:,} groups", options, times(group, train),
        steps=-(-train // options.prompts_per_step), tokens=share * group.tokens,
        epochs=options.epochs, least=planner.largest(planner.epoch_group), **more,
    )  # fmt: skip


def _reward(planner: Planner) -> PlannedStage:
    # One number per response in place of logits.
    group = replace(planner.group(planner.epoch_group), rows=0)
    return _trained(planner, "reward", planner.settings.reward, group, "pairs")


def _teachers_here(planner: Planner) -> list[Shape]:
    """The teachers that read the student's tokens on its own devices."""
    settings: Any = planner.settings
    named = {who for who in settings.train.named_teachers.values() if isinstance(who, str)}
    return [
        planner.teacher if who == "teacher" else planner.shape(who, settings.teacher)
        for who in sorted(named - {"endpoint"})
    ]


def _rewarding(planner: Planner) -> tuple[Shape, Any]:
    """What a reward model begins as, and the group of its precision."""
    settings: Any = planner.settings
    backbone = settings.reward.backbone
    if backbone == "teacher":
        return planner.teacher, settings.teacher
    if backbone == "warmed_up":
        return planner.student, settings.student
    return planner.shape(backbone, settings.student), settings.student


def _ppo(planner: Planner) -> Iterator[PlannedStage]:
    """Policy, reference or teachers, perhaps a reward model and a critic; an engine writes between
    updates, and servers read."""
    settings, counts = planner.settings, planner.counts
    train: Any = settings.train
    rollout, shape = train.rollout, planner.student
    group = planner.group(rollout.responses_per_prompt)
    own = model_bytes(shape, "float32", None)
    reward, models = shape, 0.0
    if train.learns_reward:
        reward, loaded_as = _rewarding(planner)
        models += model_bytes(reward, precise(loaded_as.precision), None)
    teachers = _teachers_here(planner) if train.distils else []
    if train.distils:
        models += sum(planner.held(teacher, settings.teacher) for teacher in teachers)
    elif not settings.student.lora.r:  # with adapters the policy is its own reference
        models += own
    if train.critic == "separate" and train.advantage == "gae":
        models += (4 + 4 + ADAM) * reward.parameters
    prompts = round(counts.train * train.epochs)
    written = planner.sampling("", shape, prompts, rollout.responses_per_prompt)
    read = times(group, prompts)
    if train.distils:
        yield from read_by_servers(planner, train.named_teachers, prompts)
    # Of several teachers the largest is taken to read all.
    largest = [max(teachers, key=lambda shape: shape.parameters)] if teachers else []
    readers = [shape, *(largest if train.distils else [shape])]
    readers += [reward] * train.learns_reward
    forwards = sum(read.inference(cost(reader)) for reader in readers)
    updates = times(group, counts.train * train.ppo_epochs)
    share = -(-train.prompts_per_step // planner.hardware.devices)
    stage = planner.training(
        "train", f"{method(settings)} on {prompts:,} prompts", train, updates,
        steps=-(-counts.train * train.ppo_epochs // train.prompts_per_step),
        tokens=share * group.tokens, epochs=train.epochs, others=models, extra_flops=forwards,
        least=planner.largest(rollout.responses_per_prompt),
    )  # fmt: skip
    yield replace(stage, flops=stage.flops + written.flops, seconds=stage.seconds + written.seconds)


def _evaluation(planner: Planner) -> Iterator[PlannedStage]:
    """Answers of every model to the held-out prompts, their scores and their figures."""
    settings, counts = planner.settings, planner.counts
    if settings.quick is not None:
        yield from _quick(planner)
        if settings.verified is not None and verifier_of(settings) is not None:
            yield from _verified(planner)
    if settings.ranked is not None and settings.rank.path is not None:
        models = 2
        work = times(planner.group(counts.responses), models * counts.heldout)
        yield planner.reading(
            "evaluate", f"the order of {counts.heldout:,} groups, {models} models",
            planner.student, settings.student, work,
            max_batch_tokens=settings.ranked.max_batch_tokens, group="student",
        )  # fmt: skip
    yield from suites(planner)


def _verified(planner: Planner) -> Iterator[PlannedStage]:
    """The arms that train nothing: greedy, with a better prompt, best of n."""
    settings, counts = planner.settings, planner.counts
    suite: Any = settings.verified
    quick: Any = settings.quick
    students, held = 1 + bool(settings.rounds), counts.heldout
    arms = suite.greedy + quick.responses_per_prompt * suite.prompted
    best = min(held, suite.best_of_prompts) * max(suite.best_of, default=0)
    # The ways to ask are tried on validation prompts: as asked, and the three of them.
    tried = 4 * counts.validation * quick.responses_per_prompt * suite.prompted
    answers = students * held * arms + best + tried
    if answers:
        yield planner.sampling("students, controls", planner.student, answers, 1)
    if arms and settings.sample.endpoint.model is None:
        yield planner.sampling("teacher, controls", planner.teacher, held * arms, 1)


def _quick(planner: Planner) -> Iterator[PlannedStage]:
    settings, counts = planner.settings, planner.counts
    quick: Any = settings.quick
    trained = bool(settings.rounds)
    warmed = settings.warmup.lessons is not None
    control = trained and quick.sharpening_control
    students = 1 + trained + control + (warmed and trained)
    held, each = counts.heldout, quick.responses_per_prompt
    answers = planner.sampling(
        "students, held out", planner.student, held * (students + control), each
    )  # the temperature of the control is tried once before
    if settings.sample.endpoint.model is None:
        yield planner.sampling("teacher, held out", planner.teacher, held, each)
    yield answers
    for scorer in (settings.judge or settings.scorer).members.values():
        yield from _scored(planner, scorer, held * (students + 1), each)
    work = times(planner.group(each), held * PASSES * (students + 1))
    beside = planner.held(planner.teacher, settings.teacher)
    beside += model_bytes(planner.student, precise(settings.student.precision), None)
    stage = planner.reading(
        "evaluate", f"figures of {students + 1} models", planner.student, settings.student, work,
        max_batch_tokens=quick.max_batch_tokens, group="student", others=beside,
    )  # fmt: skip
    yield replace(stage, seconds=stage.seconds + students * planner.hardware.start_seconds)


def judging(planner: Planner, model: str | None, questions: Questions, groups: int) -> PlannedStage:
    """The stage in which a model of this machine (None: the teacher) writes what it judges."""
    counts, settings = planner.counts, planner.settings
    shape = planner.teacher if model is None else planner.shape(model, settings.teacher)
    asked = groups * questions.count
    writing = planner.sampling("judge", shape, asked, 1)
    scale = questions.answer_tokens / counts.response
    prompt = round(QUESTION + counts.prompt + questions.shown * counts.response)
    read = planner.reading(
        "score", f"{asked:,} questions to a judge", shape, settings.teacher,
        sequences(asked, prompt, 0, rows=asked), max_batch_tokens=8192,
    )  # fmt: skip
    parallel = 2 * questions.tensor_parallel_size
    return replace(
        read,
        memory=writing.memory,
        flops=read.flops + writing.flops * scale,
        seconds=read.seconds + writing.seconds * scale,
        share=writing.share,
        remedy=writing.remedy and f"score.tensor_parallel_size={parallel}",
    )
