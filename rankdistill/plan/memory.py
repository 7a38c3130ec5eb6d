"""Bytes of a training step and of a forward pass on one device, from closed forms; what makes a
stage fit: the first of a list of changes that is enough, alone or with others.

Activations are what autograd keeps for the backward pass in transformers' decoder layers with the
attention of `rankdistill.forward`; the tests count the kept tensors and hold the forms against
them. D is the hidden size, I the MLP's, Q and K the sizes of a token's queries and keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from rankdistill.forward.head import ACCELERATOR_LOGITS, TokenLogps
from rankdistill.plan.shapes import Shape

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAM = 8
"""Bytes of AdamW's two averages, per weight."""
NF4 = 0.5 + 0.127 / 8
"""Bytes per weight: four bits, and the scales of blocks of 64, quantised again (QLoRA)."""
INT8 = 1.0
CHUNK_ROWS = TokenLogps.chunk_rows
KEPT_LOGITS = TokenLogps.logits_budget


@dataclass(frozen=True)
class Spread:
    """How a model that is trained lies on the devices."""

    devices: int = 1
    weights: bool = False
    gradients: bool = False
    optimiser: bool = False
    offloaded_optimiser: bool = False
    offloaded_weights: bool = False

    def share(self, what: str) -> float:
        """Of the bytes of `what`, those that one device holds."""
        if getattr(self, f"offloaded_{what}", False):
            return 0.0
        return 1 / self.devices if getattr(self, what) else 1.0


@dataclass(frozen=True)
class Memory:
    """Bytes on a device at the peak of a stage."""

    weights: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    others: float = 0.0
    """Models that are there beside the one that is trained: teacher, reward model, critic."""
    cache: float = 0.0
    """Keys and values of an engine that samples."""
    process: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class TrainingStep:
    """A training step on one device."""

    shape: Shape
    precision: str
    lora: int | None
    quantization: str | None
    layout: str
    checkpointing: bool | str
    """As `gradient_checkpointing`: False, True or selective."""
    tokens: int
    """Through the layers at once."""
    rows: int
    """Of logits, at once."""
    passes: int
    """Forward and backward passes of a step."""
    head: str
    """logps (kept or computed again), distilled (gradient in the forward pass), or whole (SFT)."""
    spread: Spread = Spread()
    on_gpu: bool = False

    @property
    def trained(self) -> int:
        """Weights that are trained."""
        return self.shape.lora(self.lora) if self.lora else self.shape.parameters

    def memory(self) -> Memory:
        """At the peak: the end of a step's last forward pass, when gradients are there as well."""
        spread = self.spread
        gradients = 4.0 * self.trained
        # DDP keeps buckets beside the gradients; and gradients of the only pass of a step come to
        # be while its activations go, but for the output layer's.
        copies = 1.0 if spread.gradients or spread.devices == 1 else 2.0
        share = 1.0 if self.passes > 1 or spread.devices > 1 else self._first_gradients
        return Memory(
            weights=self._weights,
            gradients=gradients * copies * share * spread.share("gradients"),
            optimiser=ADAM * self.trained * spread.share("optimiser"),
            activations=self._activations,
            logits=self._logits,
        )

    @property
    def _first_gradients(self) -> float:
        table = 0 if self.lora else self.shape.vocabulary * self.shape.hidden
        return min(1.0, table / self.trained)

    @property
    def _weights(self) -> float:
        share = self.spread.share("weights")
        if not self.lora:
            # Autocast casts every matrix once per forward pass and keeps the copy until its end;
            # weights that are sharded are cast layer by layer.
            cast = self.precision != "float32" and not self.spread.weights
            copies = 2 * self.shape.matrices if cast else 0
            return 4 * self.shape.parameters * share + copies
        frozen = model_bytes(self.shape, self.precision, self.quantization)
        return (frozen + 4 * self.trained) * share

    @property
    def _activations(self) -> float:
        """Of all layers, or of what checkpointing keeps of them and one layer that is run again."""
        shape, size = self.shape, BYTES[self.precision]
        # The residual stream under autocast is float32, under frozen weights in their precision.
        stream = size if self.lora else 4
        layer = token_bytes(shape, self.precision, self.lora, self.layout)
        around = 3 * 4 * shape.hidden + self.rows / max(self.tokens, 1) * 2 * 4 * shape.hidden
        if not self.checkpointing:
            return self.tokens * (around + shape.layers * layer)
        kept = float(stream * shape.hidden)
        if self.checkpointing == "selective":
            kept += product_bytes(shape, self.precision, self.lora, self.layout)
        return self.tokens * (around + shape.layers * kept + layer)

    @property
    def _logits(self) -> float:
        row = 4 * self.shape.vocabulary
        table = 0 if self.lora else 4 * self.shape.vocabulary * self.shape.hidden
        if self.head == "whole":  # logits, their softmax, its gradient
            return self.tokens * (3 * row + (row / 2 if self.precision != "float32" else 0))
        chunk = logits_at_once(self.rows, self.shape, self.on_gpu) * row
        if self.head == "distilled":  # both models' chunk, and blocks of the divergence
            return 3 * chunk + table
        kept = self.rows * row
        return chunk + (kept if kept <= KEPT_LOGITS else chunk) + table


def logits_at_once(rows: int, shape: Shape, on_gpu: bool) -> int:
    """Rows of a chunk of logits, see `rankdistill.forward.head.rows_at_once`."""
    room = ACCELERATOR_LOGITS // (4 * shape.vocabulary) if on_gpu else 0
    return min(rows, max(CHUNK_ROWS, room))


def token_bytes(shape: Shape, precision: str, lora: int | None, layout: str) -> float:
    """Bytes that the backward pass of a layer needs of a token."""
    D, I, Q, K = shape.hidden, shape.intermediate, shape.queries, shape.keys  # noqa: E741
    mlp = 4 if shape.gated else 2
    merged = 4 * Q if layout == "shared" else 0  # the attention of prompt and response, merged
    log_sums = 4 * shape.heads + 8  # of the softmax, and of the two norms
    if precision == "float32":
        if lora is None:
            return 4 * (6 * D + 2 * Q + 2 * K + mlp * I) + log_sums + merged
        return 4 * (4 * D + 2 * Q + 2 * K + mlp * I + 7 * lora) + log_sums + merged
    attention = 2 * (Q + 2 * K) + 2 * Q + log_sums + merged
    if lora is None:  # float32 stream and norms; each linear layer casts its own input
        return 16 * D + 10 * D + 2 * mlp * I + attention
    # Norms in float32; every adapter casts its own input.
    return 8 * D + 10 * D + 2 * Q + 2 * mlp * I + 14 * lora + attention


def product_bytes(shape: Shape, precision: str, lora: int | None, layout: str) -> float:
    """Bytes of a token that a layer's matrix products and attention return."""
    D, I, Q, K = shape.hidden, shape.intermediate, shape.queries, shape.keys  # noqa: E741
    products = Q + 2 * K + 2 * D + (2 if shape.gated else 1) * I
    adapters = products + 7 * lora if lora else 0
    partial = 2 if layout == "shared" else 1  # the attention to the prompt and to the response
    return BYTES[precision] * (products + adapters + partial * Q) + 4 * shape.heads


def model_bytes(shape: Shape, precision: str, quantization: str | None) -> float:
    """Of the weights of a model that is not trained."""
    size = BYTES[precision]
    held = {"nf4": NF4, "int8": INT8}.get(quantization or "", size)
    return shape.linear * held + shape.embeddings * size


def forward_memory(
    shape: Shape, precision: str, quantization: str | None, tokens: int, rows: int, *, on_gpu: bool
) -> Memory:
    """Of a forward pass without gradients: one layer's tensors, one chunk of logits."""
    size = BYTES[precision]
    layer = (2 * shape.queries + 2 * shape.keys + 3 * shape.intermediate + 4 * shape.hidden) * size
    chunk = 2 * 4 * logits_at_once(rows, shape, on_gpu) * shape.vocabulary
    return Memory(
        weights=model_bytes(shape, precision, quantization),
        activations=tokens * (layer + 2 * 4 * shape.hidden),
        logits=chunk,
    )


def engine_memory(
    shape: Shape, precision: str, sequences: int, length: int, devices: int
) -> Memory:
    """Of an engine that decodes `sequences` of `length` tokens at once, spread over `devices`."""
    size = BYTES[precision]
    return Memory(
        weights=model_bytes(shape, precision, None) / devices,
        cache=2 * shape.layers * shape.keys * size * sequences * length / devices,
        logits=2 * 4 * sequences * shape.vocabulary,
    )


def beside(memory: Memory, other: float) -> Memory:
    """With the bytes of another model added."""
    return replace(memory, others=memory.others + other)


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
