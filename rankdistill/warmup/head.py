"""The distillation loss from hidden states, with neither model's [N, V] logits ever whole.

Axes: **N** response tokens of a micro-batch, **D** hidden size, **V** vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rankdistill.forward import GroupBatch, LMHead
from rankdistill.forward.head import rows_at_once
from rankdistill.objectives.divergences import divergence_named, shared_vocabulary

BLOCK_VALUES = 2**21
"""Logits that the loss is worked out for at once: its temporaries are a few times their size."""
ACCELERATOR_BLOCK_VALUES = 2**26
"""The same on an accelerator, which is slower to be told than to compute small blocks."""

BlockDivergence = Callable[[Tensor, slice], Tensor]


class Target(Protocol):
    """What the student is held against at the N response tokens of a micro-batch."""

    def open(self, rows: slice) -> BlockDivergence:
        """The divergences of a chunk of rows.

        Returns:
            ``(student_logits [n, V], which rows of the chunk) -> [n]``, times T^2, differentiable
            in the student's logits.
        """
        ...


States = Mapping[str, Tensor]
"""What modules of a model returned, at the N response tokens: name -> [N, size]."""


@dataclass(frozen=True)
class TeacherRows:
    """A teacher whose logits are made of its hidden states, a chunk at a time."""

    hidden: Tensor
    """[N, D of the teacher] the last hidden states."""
    lm_head: Callable[[Tensor], Tensor]
    """[n, D] -> [n, V of the teacher], at least float32."""
    divergence: str
    temperature: float
    states: States = field(default_factory=dict)
    """Of layers inside the teacher, where they were recorded."""

    def open(self, rows: slice) -> BlockDivergence:
        device = self.hidden.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):  # in the teacher's precision
            teacher_logits = self.lm_head(self.hidden[rows])

        def divergence(student_logits: Tensor, block: slice) -> Tensor:
            pair = shared_vocabulary(student_logits, teacher_logits[block])
            return divergence_named(self.divergence)(*pair, self.temperature)

        return divergence


@dataclass(frozen=True)
class HiddenRows:
    """A head that returns a teacher's last hidden states [N, D], output layer and inner states."""

    recorder: Recorder | None = None

    def __call__(
        self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch
    ) -> tuple[Tensor, LMHead, States]:
        return hidden, lm_head, self.recorder.take(batch) if self.recorder else {}


class Matching(Protocol):
    """A further loss, between what goes on inside the two models."""

    def __call__(self, hidden: Tensor, batch: GroupBatch, target: Any) -> Tensor:
        """[] summed over the N tokens, weighted; `hidden` [N, D] is the student's last."""
        ...


class DistillationSums(NamedTuple):
    """Sums over the N response tokens of a micro-batch."""

    loss: Tensor
    """[] ``alpha divergence + beta cross_entropy + matching``; has the gradient."""
    divergence: Tensor
    """[] times T^2, nats."""
    cross_entropy: Tensor
    """[] -log q(response token) at temperature 1, over the student's whole vocabulary, nats."""
    matching: Tensor
    """[] the further loss; 0 without one."""


@dataclass(frozen=True)
class DistillationHead:
    """``alpha T^2 D(teacher, student) + beta CE(response)``, summed over response tokens.

    A `Head` of the grouped forward: it runs inside the student's own forward. Gradients are worked
    out in the forward pass, chunk by chunk, in the place of the student's logits; the backward pass
    scales them. So the result can be differentiated once. Where the output layer is sharded, its
    chunks are computed again in the backward pass instead.

    Args:
        target: The teacher's side of the same rows.
        alpha: Weight of the divergence.
        beta: Weight of the cross-entropy.
        matching: A further loss.
        chunk_rows: Rows whose logits are computed at once on a CPU, see `rows_at_once`.
    """

    target: Target
    alpha: float
    beta: float = 0.0
    matching: Matching | None = None
    chunk_rows: int = 256

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> DistillationSums:
        sums = self._in_place if lm_head.whole else self._through_layer
        loss, divergence, entropy = sums(hidden, lm_head, batch.targets)
        if self.matching is None:
            return DistillationSums(loss, divergence, entropy, torch.zeros_like(loss))
        matching = self.matching(hidden, batch, self.target)
        return DistillationSums(loss + matching, divergence, entropy, matching.detach())

    def _in_place(self, hidden: Tensor, lm_head: LMHead, targets: Tensor) -> Sequence[Tensor]:
        parameters = [p for p in lm_head.layer.parameters() if p.requires_grad]
        wanted = torch.is_grad_enabled()
        return _Chunked.apply(self, lm_head, wanted, targets, hidden, *parameters)  # type: ignore[return-value]

    def _through_layer(self, hidden: Tensor, lm_head: LMHead, targets: Tensor) -> Sequence[Tensor]:
        """As `_in_place`, with every call of the output layer where autograd sees it."""
        wanted = torch.is_grad_enabled()

        def sums(states: Tensor, rows: slice) -> Any:
            logits = lm_head(states)
            return _OfLogits.apply(self, logits, targets[rows], self.target.open(rows), wanted)

        parts = []
        for rows in self.chunks(hidden, lm_head):
            chunk = hidden[rows], rows
            parts.append(checkpoint(sums, *chunk, use_reentrant=False) if wanted else sums(*chunk))
        return [torch.stack(part).sum(0) for part in zip(*parts, strict=True)]

    def chunks(self, hidden: Tensor, lm_head: LMHead) -> list[slice]:
        """Rows [N, D] as parts that are computed at once."""
        size = rows_at_once(self.chunk_rows, hidden.device, lm_head.vocabulary)
        return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]

    def losses(self, student_logits: Tensor, targets: Tensor, divergence: Tensor) -> Tensor:
        """[3, n] loss, divergence and cross-entropy of student logits [n, V]."""
        entropy = cross_entropy(student_logits, targets, reduction="none")
        loss = self.alpha * divergence
        if self.beta:  # an infinite cross-entropy must not become 0 * inf
            loss = loss + self.beta * entropy
        return torch.stack([loss, divergence, entropy])


class _Chunked(torch.autograd.Function):
    """[] loss, divergence, cross-entropy; the loss's gradient is there when forward returns."""

    @staticmethod
    def forward(ctx, head, lm_head, wanted, targets, hidden, *parameters):
        gradients = [torch.zeros_like(t) for t in (hidden, *parameters)] if wanted else []
        total = torch.zeros(
            3, device=hidden.device, dtype=torch.promote_types(hidden.dtype, torch.float32)
        )
        for rows in head.chunks(hidden, lm_head):
            with torch.set_grad_enabled(wanted):
                leaf = hidden[rows].detach().requires_grad_(wanted)
                logits = lm_head(leaf)
            slope = logits.detach()
            total += _work_out(head, slope, targets[rows], head.target.open(rows), wanted)
            if wanted:
                _add_gradients(gradients, rows, lm_head, leaf, logits, slope, parameters)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(*(parts := total.unbind())[1:])
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the distillation loss can be differentiated once only")
        for gradient in gradients:
            gradient.mul_(grad)
        return None, None, None, None, *gradients


class _OfLogits(torch.autograd.Function):
    """[] loss, divergence, cross-entropy of a chunk's logits [n, V], which become the gradient."""

    @staticmethod
    def forward(ctx, head, logits, targets, divergence, wanted):
        slope = logits.detach()
        parts = _work_out(head, slope, targets, divergence, wanted).unbind()
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(*parts[1:])
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        (slope,) = ctx.saved_tensors
        return None, slope.mul_(grad), None, None, None


def _work_out(
    head: DistillationHead,
    logits: Tensor,
    targets: Tensor,
    divergence: BlockDivergence,
    wanted: bool,
) -> Tensor:
    """[3] sums over a chunk; its logits [n, V] become the gradient of the first where `wanted`."""
    total = torch.zeros(3, device=logits.device, dtype=logits.dtype)
    values = BLOCK_VALUES if logits.device.type == "cpu" else ACCELERATOR_BLOCK_VALUES
    step = max(1, values // logits.shape[1])
    for start in range(0, logits.shape[0], step):
        block = slice(start, start + step)
        with torch.set_grad_enabled(wanted):
            z = logits[block].detach().requires_grad_(wanted)
            losses = head.losses(z, targets[block], divergence(z, block))
            loss = losses[0].sum()
        total += losses.detach().sum(dim=1)
        if wanted:
            logits[block] = torch.autograd.grad(loss, z)[0]
    return total


def _add_gradients(
    gradients: list[Tensor],
    rows: slice,
    lm_head: LMHead,
    leaf: Tensor,
    logits: Tensor,
    slope: Tensor,
    parameters: Sequence[Tensor],
) -> None:
    """Takes the gradient of a chunk's logits on to its hidden rows and the output layer."""
    of_hidden, *of_parameters = gradients
    layer: Any = lm_head.layer
    plain = lm_head.linear and layer.bias is None and slope.dtype == leaf.dtype
    if plain and not torch.is_autocast_enabled(leaf.device.type):  # adds up without a copy
        torch.mm(slope, layer.weight, out=of_hidden[rows])
        for gradient in of_parameters:
            gradient.addmm_(slope.t(), leaf)
        return
    found = torch.autograd.grad(logits, [leaf, *parameters], slope)
    of_hidden[rows] = found[0]
    for gradient, part in zip(of_parameters, found[1:], strict=True):
        gradient += part


class Recorder:
    """Keeps what chosen modules of a model return during one forward, where it is armed."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._armed = False
        self._kept: dict[str, Tensor] = {}
        for name, module in modules.items():
            module.register_forward_hook(self._hook(name))

    def arm(self) -> None:
        """Record the next forward."""
        self._armed = True

    def take(self, batch: GroupBatch) -> dict[str, Tensor]:
        """name -> [N, size] at the rows that predict response tokens; called inside the forward."""
        kept, self._kept, self._armed = self._kept, {}, False
        return {
            name: output.flatten(0, 1).index_select(0, batch.predictors)
            for name, output in kept.items()
        }

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._armed:  # not when checkpointing computes the layer again
                self._kept[name] = output[0] if isinstance(output, tuple) else output

        return keep
