"""The student stage: a student made from a larger model by dropping layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import (
    Rows,
    encode_prompt,
    evenly_spaced_layers,
    first_layers,
    influential_layers,
    keep_layers,
    layer_influence,
    save_model,
)
from rankdistill.models.check import check_loading, check_trainable
from rankdistill.models.model import model_of
from rankdistill.schema import LayerChoice
from rankdistill.stages.run import Model, Run
from rankdistill.store import Partial

INFLUENCE_PROMPTS = 64
"""Prompts of the train split that the layers' influence is measured on."""


def check_models(run: Run) -> None:
    """Refuse, before anything runs, models that cannot be loaded or trained here as they should."""
    if run.settings.trains:
        check_trainable(run.start, run.settings.student, run.lora)
    check_loading("student", run.start, run.settings.student)
    check_loading("teacher", run.teacher, run.settings.teacher)
    keep = run.settings.student.keep_layers
    if keep is None:
        return
    layers = run.start.config().get_text_config().num_hidden_layers
    if not 1 <= keep <= layers:
        name = run.settings.student.path or run.settings.teacher.path
        raise UserError(
            f"student.keep_layers is {keep}, but {name} has {layers} layers; give 1 to {layers}."
        )


def student(run: Run, prompts: Rows) -> Model:
    """The student before any training: as it was given, or with `student.keep_layers` layers."""
    keep = run.settings.student.keep_layers
    return run.start if keep is None else fewer_layers(run, run.start, keep, prompts)


def fewer_layers(run: Run, whole: Model, keep: int, prompts: Rows) -> Model:
    """`keep` layers of a model, chosen as the settings of the student say."""
    settings = run.settings.student
    by_influence = settings.layer_choice is LayerChoice.influence
    identity = {
        "code": 1,
        "model": whole.identity,
        "keep_layers": keep,
        "layer_choice": settings.layer_choice.name,
        "prompts": prompts.key if by_influence else None,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        model, tokenizer = whole.load(), whole.tokenizer()
        layers = model.config.get_text_config().num_hidden_layers
        record: dict[str, Any] = {"layers_before": layers, "layers": keep}
        if by_influence:
            few = prompts.of_splits("train").rows[:INFLUENCE_PROMPTS]
            ids = [encode_prompt(tokenizer, row["messages"]) for row in few]
            record["influence"] = layer_influence(model, ids)
            record["kept"] = influential_layers(record["influence"], keep)
        elif settings.layer_choice is LayerChoice.first:
            record["kept"] = first_layers(layers, keep)
        else:
            record["kept"] = evenly_spaced_layers(layers, keep)
        smaller = keep_layers(model, record["kept"])
        save_model(smaller, tokenizer, partial.path / "model")
        return {**record, "parameters": sum(p.numel() for p in smaller.parameters())}

    name = run.settings.student.path or run.settings.teacher.path
    what = f"{keep} layers of {name if whole == run.start else 'an assistant'}"
    what = f"{what}, chosen by {settings.layer_choice.name}"
    return model_of(run.stage("student", what, identity, make), whole.loading)
