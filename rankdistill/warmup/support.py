"""A teacher's distribution on a stored support: its k likeliest tokens and one bucket for the rest.

The bucket is one more outcome whose probability is the mass of all other tokens, for the teacher
and for the student. Merging outcomes never raises an f-divergence, so every divergence here is a
lower bound of the one over the whole vocabulary, and equal to it at k = V. Renormalising the k
probabilities instead (`zero` in DistillKit) is no bound: it forgets what the student gives the
rest.

The bound holds at the temperature that the mass of the rest was measured at, so that mass is kept
for every temperature that is asked for and others are refused.

Axes: **N** response tokens, **k** stored tokens, **V** vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.forward import GroupBatch, LMHead
from rankdistill.forward.head import rows_at_once
from rankdistill.objectives.divergences import divergence_named
from rankdistill.warmup.head import BlockDivergence


class Support(NamedTuple):
    """What is kept of a teacher's distributions."""

    ids: Tensor
    """[N, k] the likeliest tokens, likeliest first."""
    values: Tensor
    """[N, k] their logits less the largest, at temperature 1."""
    log_tail: Tensor
    """[N, temperatures] logarithm of the mass of all other tokens; minus infinity at k = V."""


@dataclass(frozen=True)
class SupportHead:
    """A head of the grouped forward that returns the `Support` of a teacher's distributions.

    Args:
        k: Tokens to keep; at most `vocabulary`.
        temperatures: Those that the mass of the rest is kept for.
        vocabulary: Ids that teacher and student share; others don't count.
        chunk_rows: Rows whose logits are computed at once on a CPU, see `rows_at_once`.
    """

    k: int
    temperatures: tuple[float, ...]
    vocabulary: int
    chunk_rows: int = 256

    @torch.no_grad()
    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Support:
        chunk_rows = rows_at_once(self.chunk_rows, hidden.device, lm_head.vocabulary)
        parts = [
            support(lm_head(rows)[:, : self.vocabulary], self.k, self.temperatures)
            for rows in hidden.split(chunk_rows)
        ]
        return Support(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def support(logits: Tensor, k: int, temperatures: tuple[float, ...]) -> Support:
    """The `Support` of logits [N, V], at least float32."""
    top = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, top.indices, -math.inf)
    tails = []
    for temperature in temperatures:
        of_rest = (rest / temperature).logsumexp(-1)
        total = torch.logaddexp(of_rest, (top.values / temperature).logsumexp(-1))
        tails.append(of_rest - total)
    return Support(top.indices, top.values - top.values[:, :1], torch.stack(tails, dim=-1))


def support_of_logps(ids: Tensor, logps: Tensor, vocabulary: int) -> Support:
    """The `Support` at temperature 1 of the k likeliest tokens' log-probabilities.

    ids, logps: [N, k], likeliest first; `vocabulary`: ids that the mass of the rest stands for.
    """
    logps = logps.double()
    if ids.shape[1] == vocabulary:
        log_tail = torch.full_like(logps[:, 0], -math.inf)
    else:  # the sum of rounded probabilities may reach 1
        log_tail = torch.log1p(-logps.exp().sum(dim=-1).clamp(max=1 - 1e-9))
    return Support(ids, (logps - logps[:, :1]).float(), log_tail[:, None].float())


@dataclass(frozen=True)
class SupportRows:
    """A `Target` made of stored distributions."""

    ids: Tensor
    """[N, k]"""
    values: Tensor
    """[N, k] logits of the stored tokens, up to a constant."""
    log_tail: Tensor
    """[N] at `temperature`."""
    divergence: str
    temperature: float
    vocabulary: int
    """Ids that count, teacher and student alike."""

    def to(self, device: torch.device) -> SupportRows:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "values", "log_tail")}
        return replace(self, **moved)

    def open(self, rows: slice) -> BlockDivergence:
        teacher = coarse_teacher(self.values[rows], self.log_tail[rows], self.temperature)
        ids = self.ids[rows]

        def divergence(student_logits: Tensor, block: slice) -> Tensor:
            logits = student_logits[:, : self.vocabulary]
            student = coarse_student(logits, ids[block], self.temperature)
            size = student.shape[-1]  # without the bucket at k = V
            value = divergence_named(self.divergence)(student, teacher[block, :size].to(student))
            return value * self.temperature**2

        return divergence


def coarse_teacher(values: Tensor, log_tail: Tensor, temperature: float) -> Tensor:
    """[N, k + 1] log-probabilities of the stored tokens and of the bucket; they add up to 1.

    The stored tokens share ``1 - tail`` in proportion to ``exp(values / T)``, so that rounded
    values still make a distribution.
    """
    log_tail = log_tail.to(torch.promote_types(log_tail.dtype, torch.float32))
    kept = torch.where(
        log_tail < -math.log(2), torch.log1p(-log_tail.exp()), torch.log(-torch.expm1(log_tail))
    )
    shares = torch.log_softmax(values.to(log_tail) / temperature, dim=-1)
    return torch.cat([shares + kept[:, None], log_tail[:, None]], dim=-1)


def coarse_student(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """[N, k + 1] logits of the stored tokens and of the bucket, whose softmax is the student's.

    At k = V there is no bucket: [N, V].
    """
    scaled = logits if temperature == 1.0 else logits / temperature
    stored = scaled.gather(-1, ids)
    if ids.shape[-1] == logits.shape[-1]:
        return stored
    rest = scaled.scatter(-1, ids, -math.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([stored, rest], dim=-1)
