"""The warm-up stage: the student learns to talk before it is ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.errors import UserError
from rankdistill.models import Rows, tokenizer_difference
from rankdistill.models.model import model_of
from rankdistill.stages.agreement import check_sampler
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.student import fewer_layers
from rankdistill.stages.teacher import stored_outputs
from rankdistill.store import Partial
from rankdistill.warmup.distillation import other_tokenizer
from rankdistill.warmup.warmup import Training

SEEDS_APART = 1_000_003
"""Between the seeds of two rounds' samples: other runs' seeds are small numbers."""

History = list[dict[str, Any]]


def warm_up(run: Run, student: Model, prompts: Rows, taught: Rows | None) -> tuple[Model, History]:
    """The warmed-up student and the history of its training.

    Args:
        student: The pruned student; ignored where assistants make another.
        prompts: What layers are chosen on, where there are assistants, and of the train split what
            the student answers, where there are rounds.
        taught: What is learned (train), and what it is measured on (validation); None where nothing
            is.
    """
    if taught is None:
        return student, []
    assistants = run.settings.warmup.assistants
    teacher, last = run.teacher, run.start
    for layers in assistants:
        rung = fewer_layers(run, last, layers, prompts)
        teacher = last = _warmed(run, rung, teacher, prompts, taught)[0]
    if assistants:
        keep = run.settings.student.keep_layers
        assert keep is not None  # `check_warmup` refuses a ladder without an end
        student = fewer_layers(run, last, keep, prompts)
    return _warmed(run, student, teacher, prompts, taught)


def _warmed(
    run: Run, student: Model, teacher: Model, prompts: Rows, taught: Rows
) -> tuple[Model, History]:
    """One student taught by one teacher, in as many rounds as the warm-up has."""
    warmup = run.settings.warmup
    taught = taught.recoded(student)
    if warmup.rounds is None:
        return _trained(run, student, teacher, taught)
    given, measured = (taught.of_splits(split).rows for split in ("train", "validation"))
    asked = prompts.of_splits("train").at_most(warmup.max_prompts)
    history: History = []
    for number in range(warmup.rounds):
        seed = run.settings.seed + SEEDS_APART * (number + 1)
        own = sample(run, student, asked, "student", 1, seed=seed)
        rows = [*warmup.mixed(own.rows, given, seed), *measured]
        student, of_round = _trained(run, student, teacher, Rows(rows, [own.key, taught.key]))
        done = max((row["step"] for row in history), default=0)
        history += [{**row, "step": row["step"] + done} for row in of_round]
    return student, history


def _trained(run: Run, student: Model, teacher: Model, taught: Rows) -> tuple[Model, History]:
    run.close_sampler()
    warmup, settings = run.settings.warmup, run.settings
    groups = taught.of_splits("train")
    identity = {
        "code": 2,
        "student": student.identity,
        "teacher": teacher.identity,
        "responses": taught.key,
        "warmup": warmup.identity,
        "layout": settings.train.layout.name,
        "seed": settings.seed,
        **run.trained_in,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        check_sampler(run, student)  # of rounds that learn from its own responses
        how = Training(
            seed=settings.seed,
            checkpoints=partial.scratch / "checkpoints",
            validation=taught.of_splits("validation").rows,
            report_to=settings.report_to,
            lora=run.lora,
            use_liger_kernel=settings.student.use_liger_kernel,
            layout=settings.train.layout.name,
        )
        how = replace(how, cache=stored_outputs(run, student, teacher, groups, how))
        figures = warmup(student, teacher, groups.rows, partial.path / "model", how)
        history = figures.pop("history", [])
        if is_main_process():
            (partial.path / "history.json").write_text(json.dumps(history))
        return figures

    what = f"{type(warmup).__name__} on {len(groups)} prompts"
    if teacher != run.teacher:
        what += ", taught by an assistant"
    output = run.stage("warmup", what, identity, make, every_rank=True)
    return model_of(output, student.loading), json.loads((output.path / "history.json").read_text())


def check_warmup(run: Run) -> None:
    """Refuse what cannot work.

    Raises:
        UserError: Logits of two tokenizers, projections beside adapters, assistants that are no
            ladder, an engine that is not there, rationales without a verifier.
    """
    warmup = run.settings.warmup
    warmup.check(run.start, run.teacher, run.lora)
    if warmup.assistants:
        _check_assistants(run, warmup.assistants)
    if warmup.needs_verifier:
        _check_verifier(run)
    if (stored := warmup.stored) and stored.get("engine") == "vllm" and run.sampler_name != "vllm":
        raise UserError(
            "warmup.top_k_from is vllm, which sample.sampler does not use here: install it and set "
            "sample.sampler=vllm, or warmup.top_k_from=transformers."
        )
    if not warmup.needs_same_tokenizer or run.start.path == run.teacher.path:
        return
    ours, theirs = run.start.tokenizer(), run.teacher.tokenizer()
    difference = tokenizer_difference(ours, theirs)
    if difference is not None:
        raise UserError(other_tokenizer("the teacher", difference))


def _check_verifier(run: Run) -> None:
    scorer = run.settings.scorer
    if not all(member.verifies for member in scorer.members.values()):
        raise UserError(
            f"warmup.rationale learns a chain of thought where a verifier agrees, and score is "
            f"{scorer.name}: set score=verifier, or warmup.rationale=false."
        )


def _check_assistants(run: Run, assistants: Sequence[int]) -> None:
    keep = run.settings.student.keep_layers
    if keep is None:
        raise UserError(
            "warmup.assistants are students between the whole model and one with fewer layers: set "
            "student.keep_layers, or warmup.assistants=[]."
        )
    whole = run.start.config().get_text_config().num_hidden_layers
    ladder = [whole, *assistants, keep]
    if any(a <= b for a, b in pairwise(ladder)):
        raise UserError(
            f"warmup.assistants is {list(assistants)}, but the ladder must fall from the model's "
            f"{whole} layers to student.keep_layers={keep}: give layers in between."
        )
