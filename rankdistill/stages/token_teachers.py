"""The teachers of on-policy distillation: loaded here or served, one or several by a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankdistill.distributed import world_size
from rankdistill.errors import UserError, suggest
from rankdistill.models import Model, Rows, ServedModel, tokenizer_difference
from rankdistill.rows import column_of, row_columns
from rankdistill.sample.endpoint import check_endpoint
from rankdistill.schema import EndpointConfig
from rankdistill.stages.run import Run
from rankdistill.train.ppo.served import ServedReader, ServedTeacher
from rankdistill.train.schema import PPOTrainOptions


@dataclass(frozen=True)
class TokenTeacher:
    """Who says what the student's tokens are worth."""

    model: Model
    served: ServedTeacher | None
    """Where, of one that is not loaded."""


def check_teachers(run: Run, train: PPOTrainOptions) -> None:
    """Refuse, before anything is sampled, teachers that cannot read the student's own tokens.

    Raises:
        UserError: another tokenizer, rollouts whose probabilities a server cannot say, or as
            `ServedReader.check`.
    """
    tokenizer = run.start.tokenizer()
    for name, teacher in token_teachers(run, train).items():
        if teacher.served is not None:
            if train.rollout.temperature != 1:
                raise UserError(
                    f"train.rollout.temperature is {train.rollout.temperature:g}, and the served "
                    f"teacher ({teacher.served.group}) says log-probabilities at 1: set it to 1."
                )
            _reader(run, train, teacher.served).check(tokenizer)
            continue
        difference = tokenizer_difference(tokenizer, teacher.model.tokenizer())
        if difference is not None:
            key = f"train.teachers.{name}" if name else "teacher.path"
            raise UserError(
                "train=distillation has the teacher read the student's own tokens, and their "
                f"tokenizers differ ({difference}): give a teacher ({key}) that has the "
                "student's, or distil by warmup=cross_tokenizer rounds=0, which aligns the two."
            )


def check_routes(run: Run, prompts: Rows) -> None:
    """UserError where a train prompt names no teacher."""
    train = run.settings.train
    if not isinstance(train, PPOTrainOptions) or train.teacher_column is None:
        return
    column, known = train.teacher_column, train.named_teachers
    for prompt in prompts:
        value = column_of(prompt, column)
        if value is None:
            kept = ", ".join(row_columns(prompt)) or "none"
            raise UserError(
                f"The prompt {prompt['prompt_id']} has no column '{column}' (train.teacher_column; "
                f"kept: {kept}): keep it, by 'prompts.keep=[{column}]'."
            )
        if str(value) not in known:
            raise UserError(
                f"The prompt {prompt['prompt_id']} has the {column} '{value}', for which "
                f"train.teachers names nobody: {suggest(str(value), known)}"
            )


def token_teachers(run: Run, train: PPOTrainOptions) -> dict[str, TokenTeacher]:
    """The teachers by value of `train.teacher_column`; under "" where there is one."""
    return {name: _teacher(run, name, who) for name, who in train.named_teachers.items()}


def teachers_identity(run: Run, train: PPOTrainOptions) -> dict[str, Any]:
    """What an identity says of the teachers."""
    found = {name: one.model.identity for name, one in token_teachers(run, train).items()}
    return {"teacher": found[""]} if train.teacher_column is None else {"teachers": found}


def opened(run: Run, train: PPOTrainOptions, student: Model) -> tuple[Any, int, dict[str, Any]]:
    """The reference of a `PPOTrainer`, how many models it loaded, and what servers say they serve.

    A student that is its own teacher begins as it: there is nothing to load.
    """
    made: dict[str, Any] = {}
    said: dict[str, Any] = {}
    loaded = 0
    for name, teacher in token_teachers(run, train).items():
        who = str(train.named_teachers[name])
        if who in made:
            continue
        if teacher.served is not None:
            made[who] = _reader(run, train, teacher.served)
            said |= made[who].check(student.tokenizer())
        else:
            own = teacher.model.identity == student.identity
            made[who] = None if own else teacher.model.load()
            loaded += not own or run.lora is None
    found = {name: made[str(who)] for name, who in train.named_teachers.items()}
    several = train.teacher_column is not None
    return found if several else found[""], loaded, {"served": said} if said else {}


def _reader(run: Run, train: PPOTrainOptions, served: ServedTeacher) -> ServedReader:
    top_k = 0 if train.divergence is None else train.top_k
    vocabulary = run.start.config().get_text_config().vocab_size
    return ServedReader(served, top_k, vocabulary, world_size())


def _teacher(run: Run, name: str, who: Any) -> TokenTeacher:
    if who == "teacher":
        return TokenTeacher(run.teacher, None)
    endpoint, group = run.settings.sample.endpoint, "sample.endpoint"
    if isinstance(who, Mapping):
        group = f"train.teachers.{name}"
        endpoint = endpoint_with(endpoint, group, who)
    elif who != "endpoint":
        return TokenTeacher(run.teaching[who], None)
    if endpoint.model is None:
        raise UserError(
            "train.teachers names endpoint, which is none: give sample.endpoint.urls and "
            "sample.endpoint.model."
        )
    model = ServedModel.of(endpoint.model, endpoint.revision)
    return TokenTeacher(model, ServedTeacher(endpoint, group))


def endpoint_with(given: EndpointConfig, group: str, keys: Mapping[str, Any]) -> EndpointConfig:
    """The endpoint with other keys. UserError: there are no such keys, or values."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(given), {"urls": [], "model": None, **keys})
        endpoint: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        known = [own.name for own in fields(EndpointConfig)]
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{group} has a key or a value that sample.endpoint cannot have ({why}): its keys are "
            f"{', '.join(known)}."
        ) from None
    if endpoint.model is None:
        raise UserError(f"{group} is an endpoint without a model: give its urls and its model.")
    check_endpoint(endpoint, group)
    return endpoint
