"""Who says what the tokens of a response are worth: a reference on this device, a served teacher,
or several of them by a column of the prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from rankdistill.forward import (
    GroupBatch,
    LMHead,
    TokenGroup,
    TokenLogps,
    bound_layout,
    collate,
    micro_batches,
)
from rankdistill.rows import column_of
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.warmup.support import Support, SupportHead


class Reading(NamedTuple):
    """What is said of a response of T tokens, on the CPU."""

    logps: Tensor
    """[T] of its tokens, nats."""
    support: Support | None = None
    """Of the distributions that they were drawn from, where a divergence is learned from."""


Readings = list[list[Reading | None]]
"""`[group][response]`; None of a response that could not be read."""


class TokenReader(Protocol):
    """Reads responses token by token."""

    counts: Counter[str]
    """What it took since it was last emptied, of a server: calls, retries, tokens, dollars."""

    def __call__(self, groups: Sequence[TokenGroup]) -> Readings:
        """UserError: it stopped answering."""
        ...


class LocalReader:
    """A model on this device.

    Args:
        model: Bound, frozen.
        vocabulary: Ids that the policy has.
    """

    def __init__(
        self, model: Any, accelerator: Accelerator, config: PPOConfig, vocabulary: int
    ) -> None:
        self._model, self._accelerator, self._config = model, accelerator, config
        self._head = _ReadingHead(
            TokenLogps(config.sampling.temperature),
            0 if config.divergence is None else config.top_k,
            vocabulary,
        )
        self.counts: Counter[str] = Counter()

    @torch.no_grad()
    def __call__(self, groups: Sequence[TokenGroup]) -> Readings:
        layout, found = bound_layout(self._model), []
        for part in micro_batches(groups, self._config.max_batch_tokens, layout):
            read = [groups[i] for i in part]
            batch = collate(read, layout).to(self._accelerator.device)
            with self._accelerator.autocast():
                logps, support = self._model(group_batch=batch, head=self._head)
            sizes = [len(response) for group in read for response in group.responses]
            columns = [x.cpu().split(sizes) for x in (logps, *(support or ()))]
            each = iter([
                Reading(first, Support(*rest) if rest else None)
                for first, *rest in zip(*columns, strict=True)
            ])  # fmt: skip
            found += [[next(each) for _ in group.responses] for group in read]
        return found


@dataclass(frozen=True)
class _ReadingHead:
    """A head: the tokens' log-probabilities [N], and the `Support` of the k likeliest, if any."""

    logps: TokenLogps
    k: int
    vocabulary: int

    def __call__(
        self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch
    ) -> tuple[Tensor, Support | None]:
        logps = self.logps(hidden, lm_head, batch)
        if not self.k:
            return logps, None
        shared = min(self.vocabulary, lm_head.vocabulary)
        head = SupportHead(min(self.k, shared), (self.logps.temperature,), shared)
        return logps, head(hidden, lm_head, batch)


class Readers:
    """One reader, or the one that a prompt's column names.

    Args:
        readers: By the column's value; the only one is under any name.
        column: None where there is one.
    """

    def __init__(self, readers: Mapping[str, TokenReader], column: str | None) -> None:
        self._readers, self._column = dict(readers), column

    def __call__(self, rows: Sequence[Any], groups: Sequence[TokenGroup]) -> Readings:
        """The readings of the groups, of which each is made of the prompt in `rows`."""
        if self._column is None:
            [reader] = self._readers.values()
            return reader(groups)
        named = [str(column_of(row, self._column)) for row in rows]
        found: dict[int, list[Reading | None]] = {}
        for name, reader in self._readers.items():
            mine = [i for i, other in enumerate(named) if other == name]
            found |= zip(mine, reader([groups[i] for i in mine]), strict=True)
        return [found[i] for i in range(len(groups))]

    def taken(self) -> Counter[str]:
        """What servers took since this was last asked."""
        total: Counter[str] = Counter()
        for reader in self._readers.values():
            total.update(reader.counts)
            reader.counts.clear()
        return total
