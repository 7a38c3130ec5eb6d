"""What makes a stage fit: the first of a list of changes that is enough, alone or with others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from rankdistill.plan.memory import Spread, TrainingStep

LORA_RANK = 16
"""Of the adapters that are suggested."""

Change = tuple[str, TrainingStep]
Changes = Callable[[TrainingStep], Iterator[Change]]


def remedy(
    training: TrainingStep, fits: Callable[[TrainingStep], bool], least_tokens: int, group: str
) -> str | None:
    """The keys to set so that a training fits; None where nothing of the list is enough.

    Changes that keep the result come before those that change what is trained: fewer tokens at
    once, checkpointing, weights spread over the devices; then adapters, then QLoRA. Each is tried
    alone, then on top of those before it.

    Args:
        fits: Whether a training fits on a device.
        least_tokens: Of the largest group, which is never cut.
        group: Of the configuration, with the keys of this training: `train`, `warmup`, `reward`.
    """
    batch, checkpointing = _batch(group, least_tokens), _checkpointing(group)
    for change in (batch, checkpointing, _spread, _adapters, _qlora):
        for text, changed in change(training):
            if fits(changed):
                return text
    said: list[str] = []
    for change in (checkpointing, _spread, batch, _adapters, _qlora):
        tried = list(change(training))
        if not tried:
            continue
        text, training = next((c for c in tried if fits(c[1])), tried[-1])
        if change is _qlora:  # takes the place of plain adapters
            said = [part for part in said if not part.startswith("student.lora")]
        said.append(text)
        if fits(training):
            return " ".join(said)
    return None


def _batch(group: str, least: int) -> Changes:
    def halved(training: TrainingStep) -> Iterator[Change]:
        tokens = training.tokens
        while tokens > least:
            tokens = max(least, tokens // 2)
            share = tokens / training.tokens
            rows, passes = math.ceil(training.rows * share), math.ceil(training.passes / share)
            changed = replace(training, tokens=tokens, rows=rows, passes=max(2, passes))
            yield f"{group}.max_batch_tokens={tokens}", changed

    return halved


def _checkpointing(group: str) -> Changes:
    def recomputed(training: TrainingStep) -> Iterator[Change]:
        key = f"{group}.gradient_checkpointing"
        # Adapters' products are kept beside those of the weights: little is saved.
        if not training.checkpointing and not training.lora:
            yield f"{key}=selective", replace(training, checkpointing="selective")
        if training.checkpointing is not True:
            yield f"{key}=true", replace(training, checkpointing=True)

    return recomputed


def _spread(training: TrainingStep) -> Iterator[Change]:
    devices = training.spread.devices
    if devices > 1 and not training.spread.weights and training.quantization is None:
        spread = Spread(devices, weights=True, gradients=True, optimiser=True)
        yield "plan.spread=fsdp2_8gpu", replace(training, spread=spread)


def _adapters(training: TrainingStep) -> Iterator[Change]:
    if training.lora is None:
        yield f"student.lora.r={LORA_RANK}", replace(training, lora=LORA_RANK)


def _qlora(training: TrainingStep) -> Iterator[Change]:
    if training.quantization is None:
        rank = training.lora or LORA_RANK
        changed = replace(training, lora=rank, quantization="nf4", spread=Spread())
        yield f"student.quantization=nf4 student.lora.r={rank}", changed
