"""lm-eval's transformers back end, which computes a context once for all of its continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.models import huggingface
from torch import Tensor

from rankdistill.forward import (
    GroupBatch,
    LMHead,
    TokenGroup,
    bind,
    bound_layout,
    collate,
    sum_by_candidate,
)

_HFLM: Any = huggingface.HFLM  # decorated, which hides its type
_CHUNK_ROWS = 256
"""Rows whose logits are there at once."""


class SharedContexts(_HFLM):
    """`HFLM` whose log-likelihoods take a forward pass per context instead of one per continuation.

    A description of HellaSwag and its four endings are 85 tokens of SmolLM2's instead of the 172 of
    four sequences, and the 55 of the endings alone have logits. Values are HFLM's to the rounding
    of float32.

    Args:
        model: A causal language model; it is bound (`rankdistill.forward.bind`).
        batch_size: Continuations of a forward pass; more where one context has more.
        options: Those of `HFLM`.
    """

    def __init__(self, model: Any, *, batch_size: int, **options: Any) -> None:
        super().__init__(pretrained=bind(model), batch_size=batch_size, **options)
        self._continuations = batch_size

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *_: Any, **__: Any
    ) -> list[tuple[float, bool]]:
        """(Log-probability of the continuation in nats, whether it is the greedy one) of each.

        Args:
            requests: What was asked, the ids of the context, and those of the continuation.
        """
        of_context: dict[tuple[int, ...], list[int]] = {}
        for index, (_asked, context, continuation) in enumerate(requests):
            assert 0 < len(continuation) <= self.max_length  # as HFLM: it cannot be cut
            # A sequence that is too long loses its beginning, as in HFLM.
            kept = context[-(self.max_length + 1 - len(continuation)) :]
            of_context.setdefault(tuple(kept), []).append(index)
        found: dict[int, tuple[float, bool]] = {}
        for batch in self._batches(of_context):
            groups = [
                TokenGroup(context, [requests[index][2] for index in of_context[context]])
                for context in batch
            ]
            for context, answers in zip(batch, self._answers(groups), strict=True):
                found.update(zip(of_context[context], answers, strict=True))
        return [found[index] for index in range(len(requests))]

    def _batches(
        self, of_context: dict[tuple[int, ...], list[int]]
    ) -> Iterator[list[tuple[int, ...]]]:
        batch: list[tuple[int, ...]] = []
        continuations = 0
        for context, indices in of_context.items():
            if batch and continuations + len(indices) > self._continuations:
                yield batch
                batch, continuations = [], 0
            batch.append(context)
            continuations += len(indices)
        if batch:
            yield batch

    def _answers(self, groups: Sequence[TokenGroup]) -> list[list[tuple[float, bool]]]:
        model: Any = self.model
        batch = collate(groups, bound_layout(model)).to(model.device)
        with torch.no_grad():
            logps, others = model(group_batch=batch, head=_logps_and_others)
        batch = batch.to(logps.device)
        sums = sum_by_candidate(logps, batch).tolist()
        missed = sum_by_candidate(others, batch).tolist()
        return [
            [(row[i], misses[i] == 0) for i in range(len(group.responses))]
            for group, row, misses in zip(groups, sums, missed, strict=True)
        ]


def _logps_and_others(hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> tuple[Tensor, Tensor]:
    """[N] log-probabilities of the tokens, and [N] whether another token is likelier."""
    logps, others = [], []
    chunks = zip(hidden.split(_CHUNK_ROWS), batch.targets.split(_CHUNK_ROWS), strict=True)
    for rows, targets in chunks:
        logits = lm_head(rows)
        logps.append(logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(-1))
        others.append((logits.argmax(-1) != targets).float())
    return torch.cat(logps), torch.cat(others)
