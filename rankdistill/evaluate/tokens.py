"""Figures of the next-token distributions on the response tokens: entropy, KL, the temperature.

Axes: **N** response tokens of a batch, **V** vocabulary. Everything runs as a head inside the
grouped forward, on the rows that predict response tokens, `CHUNK` rows at a time, so that [N, V]
never exists; no gradient is kept. A distribution is ``softmax(logits / temperature)``, before top-p
and top-k, over the whole vocabulary; all figures are in nats per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor
from transformers import PreTrainedModel

from rankdistill.forward import (
    GroupBatch,
    LMHead,
    TokenGroup,
    collate,
    micro_batches,
    response_logps,
)
from rankdistill.objectives.divergences import forward_kl, shared_vocabulary

CHUNK = 256
"""Rows of logits that exist at once, as in the training forward."""

KEPT_BYTES = 2**30
"""Most memory for the hidden states of `KnownRows`."""


def batches_of(
    groups: Sequence[TokenGroup], *, max_batch_tokens: int, layout: str = "shared"
) -> Iterable[GroupBatch]:
    """The groups as batches under the token budget, in their order."""
    for indices in micro_batches(groups, max_batch_tokens, layout):
        yield collate([groups[i] for i in indices], layout)


def token_entropy(model: PreTrainedModel, batch: GroupBatch, temperature: float = 1.0) -> Tensor:
    """[N] entropy of the model's next-token distribution at every response token, nats.

    model: bound (`rankdistill.forward.bind`); left in the mode (train, eval) it was in.
    """
    with _measuring(model):
        return model(group_batch=batch.to(model.device), head=_Entropy(temperature))


def mean_entropy(
    model: PreTrainedModel, batches: Iterable[GroupBatch], temperature: float = 1.0
) -> float:
    """Entropy averaged over all response tokens, nats per token. ValueError: no token."""
    return _mean(token_entropy(model, batch, temperature) for batch in batches)


def entropy_and_divergence(
    model_p: PreTrainedModel,
    model_q: PreTrainedModel,
    batches: Iterable[GroupBatch],
    temperatures: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, float]:
    """Entropy of p and KL(p || q), each averaged over all response tokens, nats per token.

    Both models are bound and share a tokenizer; tables padded to two sizes are cut to the ids that
    both have. On responses that p sampled the KL estimates the divergence of the two policies from
    each other; it is exact in the last step and Monte Carlo in the contexts. Each model makes one
    pass over a batch. temperatures: of p and of q. ValueError: no token.
    """
    entropies: list[Tensor] = []

    def both(hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Tensor:
        entropies.extend(_entropies(hidden, lm_head, temperatures[0]))
        # q's forward runs inside p's, so that both heads run inside their own model's forward.
        head = _DivergenceFrom(hidden, lm_head, temperatures)
        return model_q(group_batch=batch.to(model_q.device), head=head)

    with _measuring(model_p), _measuring(model_q):
        kl = _mean(model_p(group_batch=b.to(model_p.device), head=both) for b in batches)
    return _mean(entropies), kl


class KnownRows:
    """A model on fixed batches: several others are held against it with one pass of its own.

    Its hidden states are kept while they fit into `KEPT_BYTES`; beyond, it runs again.

    Args:
        model: Bound.
        batches: Its responses.
    """

    def __init__(self, model: PreTrainedModel, batches: Iterable[GroupBatch]) -> None:
        self.model, self.batches = model, list(batches)
        self._kept: dict[int, tuple[Tensor, LMHead]] = {}
        self._bytes = 0

    def divergence_to(
        self, model_q: PreTrainedModel, temperatures: tuple[float, float] = (1.0, 1.0)
    ) -> float:
        """KL of the known model from `model_q`, as in `entropy_and_divergence`."""
        with _measuring(self.model), _measuring(model_q):
            return _mean(self._parts(model_q, temperatures))

    def _parts(
        self, model_q: PreTrainedModel, temperatures: tuple[float, float]
    ) -> Iterable[Tensor]:
        for index, batch in enumerate(self.batches):
            head = _DivergenceFrom(*self._rows(index, batch), temperatures)
            yield model_q(group_batch=batch.to(model_q.device), head=head)

    def _rows(self, index: int, batch: GroupBatch) -> tuple[Tensor, LMHead]:
        if index in self._kept:
            return self._kept[index]
        rows = self.model(group_batch=batch.to(self.model.device), head=_keep)
        if self._bytes + rows[0].nbytes <= KEPT_BYTES:
            self._kept[index] = rows
            self._bytes += rows[0].nbytes
        return rows


def policy_values(
    model: PreTrainedModel, batches: Iterable[GroupBatch], *, summed: bool = False
) -> list[list[float]]:
    """The policy's own value of every response, per group: mean log-probability, nats per token.

    Ranks the responses as RRHF does, so that its order can be held against the teacher's. `summed`:
    of the whole response, nats.
    """
    values: list[list[float]] = []
    with _measuring(model):
        for batch in batches:
            result = response_logps(model, batch.to(model.device))
            logps = result.logps if summed else result.logps / result.lengths.clamp(min=1)
            for row, lengths in zip(logps.tolist(), result.lengths.tolist(), strict=True):
                values.append([v for v, length in zip(row, lengths, strict=True) if length > 0])
    return values


@dataclass(frozen=True)
class MatchedTemperature:
    """The temperature that gives a model a wanted entropy on given responses."""

    temperature: float
    entropy: float
    """At that temperature on the given responses, nats per token."""
    target: float
    """What was asked for, nats per token."""
    matched: bool
    """False: no temperature within the bounds reaches the target; the nearest bound was taken."""


def matching_temperature(
    model: PreTrainedModel,
    batches: Iterable[GroupBatch],
    target_entropy: float,
    *,
    base_temperature: float = 1.0,
    bounds: tuple[float, float] = (0.1, 5.0),
    tolerance: float = 1e-3,
    max_rows: int = 4096,
) -> MatchedTemperature:
    """The temperature at which the model's mean token entropy is `target_entropy` nats per token.

    Sharpening alone raises likelihood-like scores, so a student that training made surer of itself
    has to be held against the untrained student sampled at a lower temperature. The mean entropy
    rises with the temperature, so there is one such temperature (found by Brent's method).

    An approximation: the entropy is averaged over the *given* responses, but at another temperature
    the model would write others, of whose tokens it is surer or less sure. So sample once at the
    result and report the entropy of those samples beside the target. Where the batches hold more
    than `max_rows` tokens, as many are taken at even distances.

    batches: responses that the model sampled at `base_temperature`. tolerance: of the temperature,
    relative. ValueError: no token, or a base temperature outside the bounds.
    """
    if not 0.0 < bounds[0] < base_temperature < bounds[1]:
        raise ValueError(f"the base temperature {base_temperature} is not within {bounds}")
    with _measuring(model):
        entropy = _MeanEntropy(*_hidden_rows(model, batches, max_rows))
        base = entropy(base_temperature)
        bound = bounds[0] if target_entropy < base else bounds[1]
        matched = min(base, entropy(bound)) <= target_entropy <= max(base, entropy(bound))
        temperature = bound
        if matched:
            low, high = sorted((base_temperature, bound))
            excess = lambda t: entropy(t) - target_entropy  # noqa: E731
            temperature = float(brentq(excess, low, high, rtol=tolerance))  # type: ignore[arg-type]
        return MatchedTemperature(temperature, entropy(temperature), target_entropy, bool(matched))


class _MeanEntropy:
    """Mean entropy of stored rows as a function of the temperature; each temperature once."""

    def __init__(self, rows: Tensor, lm_head: LMHead) -> None:
        self.rows, self.lm_head = rows, lm_head
        self.known: dict[float, float] = {}

    def __call__(self, temperature: float) -> float:
        if temperature not in self.known:
            chunks = _entropies(self.rows, self.lm_head, temperature)
            self.known[temperature] = _mean(chunks)
        return self.known[temperature]


@dataclass(frozen=True)
class _Entropy:
    temperature: float

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Tensor:
        return torch.cat(list(_entropies(hidden, lm_head, self.temperature)))


@dataclass(frozen=True)
class _DivergenceFrom:
    """As q's head: compares the logits chunk by chunk; p's rows and head are known."""

    hidden_p: Tensor
    lm_head_p: LMHead
    temperatures: tuple[float, float]

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Tensor:
        temperature_p, temperature_q = self.temperatures
        parts = []
        for rows_p, rows_q in zip(self.hidden_p.split(CHUNK), hidden.split(CHUNK), strict=True):
            logits_p = self.lm_head_p(rows_p) / temperature_p
            logits_q = (lm_head(rows_q) / temperature_q).to(logits_p.device)
            logits_q, logits_p = shared_vocabulary(logits_q, logits_p)
            parts.append(forward_kl(logits_q, logits_p))
        return torch.cat(parts)


def _entropies(hidden: Tensor, lm_head: LMHead, temperature: float) -> Iterable[Tensor]:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    for rows in hidden.split(CHUNK):
        yield torch.special.entr(torch.softmax(lm_head(rows) / temperature, dim=-1)).sum(dim=-1)


def _hidden_rows(
    model: PreTrainedModel, batches: Iterable[GroupBatch], max_rows: int
) -> tuple[Tensor, LMHead]:
    """[at most max_rows, D] hidden states that predict response tokens, and the model's LM head."""
    rows: list[Tensor] = []
    lm_head: LMHead | None = None
    for batch in batches:
        hidden, lm_head = model(group_batch=batch.to(model.device), head=_keep)
        rows.append(hidden)
    if lm_head is None:
        raise ValueError("no response token to average over")
    joined = torch.cat(rows)
    if len(joined) > max_rows:
        chosen = torch.linspace(0, len(joined) - 1, max_rows, device=joined.device).long()
        joined = joined[chosen]
    return joined, lm_head


def _keep(hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> tuple[Tensor, LMHead]:
    """As a head: the rows themselves."""
    return hidden, lm_head


def _mean(parts: Iterable[Tensor]) -> float:
    total, count = 0.0, 0
    for part in parts:
        total += float(part.double().sum())
        count += part.numel()
    if count == 0:
        raise ValueError("no response token to average over")
    return total / count


@contextmanager
def _measuring(model: PreTrainedModel):
    """No gradient, no dropout; the mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
