"""A teacher's outputs on disk: it runs once over the responses, whatever is trained on them.

Two kinds. `top_k` keeps the k likeliest tokens and the mass of the rest at chosen temperatures (see
`support.py`): small, a lower bound of the divergence. `hidden` keeps the last hidden state, of
which the teacher's output layer makes the logits: exact, any divergence and temperature later.

They are shards of the store, each the outputs of consecutive rows, read by memory map. What they
are of is in the key of the stage's output; one that is missing or damaged is made again alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from rankdistill.console import progress, say
from rankdistill.errors import UserError
from rankdistill.forward import bound_layout, collate, micro_batches
from rankdistill.store.shards import (
    TENSORS,
    number_of,
    shard_files,
    without_damaged,
    write_shard,
)
from rankdistill.warmup.head import HiddenRows
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.support import Support, SupportHead

SHARD_TOKENS = 16_384

Tensors = dict[str, Tensor]

Maker = Callable[[Sequence[TokenRow]], Tensors]
"""Makes what is stored of some rows: [N, ...] each, N their response tokens."""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds."""

    kind: str
    """`top_k` or `hidden`."""
    vocabulary: int = 0
    """Ids that teacher and student share; `top_k` only."""
    k: int = 0
    """Tokens kept, `top_k` only."""
    temperatures: tuple[float, ...] = ()
    """Those that the mass of the rest is kept for, `top_k` only."""
    hidden_size: int = 0
    """Of the teacher, `hidden` only."""
    hidden_bytes: int = 4
    """Bytes of a number in the teacher's precision, `hidden` only."""

    @property
    def bits(self) -> int:
        """Bits of a stored id."""
        return bits_for(self.vocabulary)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a response token in a shard."""
        if self.kind == "hidden":
            return self.hidden_size * self.hidden_bytes
        return packed_size(self.k, self.bits) + 2 * self.k + 4 * len(self.temperatures)

    def pack(self, outputs: Any) -> Tensors:
        """What a teacher's forward returned, as it is stored: [N, ...] each."""
        if self.kind == "hidden":
            return {"hidden": outputs[0].cpu()}
        return {
            "ids": pack(outputs.ids, self.bits),
            "values": outputs.values.half().cpu(),
            "log_tail": outputs.log_tail.float().cpu(),
        }

    def support(self, tensors: Tensors) -> Support:
        """The reverse of `pack` for `top_k`."""
        ids = unpack(tensors["ids"], self.k, self.bits)
        return Support(ids, tensors["values"], tensors["log_tail"])

    def column(self, temperature: float) -> int:
        """Which stored temperature it is; UserError where the cache holds nothing for it."""
        if temperature not in self.temperatures:
            stored = ", ".join(f"{value:g}" for value in self.temperatures)
            raise UserError(
                f"the teacher cache bounds the divergence at temperature {stored} only, not at "
                f"{temperature:g}: add {temperature:g} to "
                "warmup.stored_temperatures, or set warmup.teacher_outputs=hidden."
            )
        return self.temperatures.index(temperature)

    @property
    def head(self) -> Any:
        """The head of the grouped forward whose result is packed."""
        if self.kind == "hidden":
            return HiddenRows()
        return SupportHead(self.k, self.temperatures, self.vocabulary)


class TeacherCache:
    """The outputs of `spec` for `rows`, in `folder`.

    Args:
        folder: Of the shards.
        spec: What is kept.
        rows: The responses, in their order.
        shard_tokens: Response tokens of a shard, about.

    Raises:
        UserError: More tokens are to be kept than there are.
    """

    def __init__(
        self,
        folder: Path,
        spec: CacheSpec,
        rows: Sequence[TokenRow],
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        if spec.k > spec.vocabulary:
            raise UserError(
                f"warmup.top_k is {spec.k}, and teacher and student share "
                f"{spec.vocabulary} tokens: give at most that many."
            )
        self.folder, self.spec, self.rows = folder, spec, rows
        self.shards = _plan(rows, shard_tokens)
        self._offsets = _offsets(rows, self.shards)
        self._open: dict[int, Any] = {}

    def fill(self, teacher: Callable[[], Any], max_batch_tokens: int) -> int:
        """Makes the missing shards with a model; the number that was made.

        Args:
            teacher: Gives the bound teacher on its device; called only where a shard is missing.
            max_batch_tokens: Tokens that go through it at once.

        Raises:
            UserError: There is no space for the cache.
        """
        return self.complete(lambda: _of_model(teacher(), self.spec, max_batch_tokens))

    def complete(self, maker: Callable[[], Maker]) -> int:
        """Makes the missing shards; the number that was made.

        Args:
            maker: Gives what makes a shard; called only where one is missing.

        Raises:
            UserError: There is no space for the cache (said before the maker is there).
        """
        there = {number_of(path) for path in without_damaged(self.folder)}
        missing = [index for index in range(len(self.shards)) if index not in there]
        if not missing:
            return 0
        tokens = [sum(len(row.response) for row in self._of(index)) for index in missing]
        self._say_what_it_takes(sum(tokens))
        make = maker()
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress(sum(tokens), "tokens") as bar:
            for index, count in zip(missing, tokens, strict=True):
                parts = make(self._of(index))
                data = to_bytes({name: tensor.contiguous() for name, tensor in parts.items()})
                write_shard(self.folder, f"{index:06d}", data, TENSORS)
                bar.advance(count)
        return len(missing)

    def read(self, rows: Sequence[TokenRow]) -> Tensors:
        """What is stored of some of the rows, [N, ...] each, N their response tokens."""
        return joined([self._row(row) for row in rows])

    @cached_property
    def bytes_per_token(self) -> float:
        """Bytes on disk per response token, file headers included."""
        size = sum(path.stat().st_size for path in self._files)
        return size / sum(len(row.response) for row in self.rows)

    @cached_property
    def _files(self) -> list[Path]:
        """Of each shard; older outputs have them as ``shard-00000.safetensors``."""
        return shard_files(self.folder) or sorted(self.folder.glob(f"shard-*{TENSORS}"))

    def _row(self, row: TokenRow) -> Tensors:
        shard, start = self._offsets[row.index]
        if shard not in self._open:
            self._open[shard] = safe_open(self._files[shard], framework="pt")
        file = self._open[shard]
        end = start + len(row.response)
        return {name: file.get_slice(name)[start:end] for name in file.keys()}  # noqa: SIM118

    def _of(self, shard: int) -> Sequence[TokenRow]:
        return self.rows[slice(*self.shards[shard])]

    def _say_what_it_takes(self, tokens: int) -> None:
        size = self.spec.bytes_per_token
        existing = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if tokens * size > free:
            raise UserError(
                f"the teacher cache of {tokens:,} tokens needs {tokens * size / 1e9:.1f} GB "
                f"({size} bytes per token), and {existing} has {free / 1e9:.1f} GB free: make "
                "space, lower warmup.top_k, or set warmup.teacher_outputs=live."
            )
        say(
            f"{tokens:,} tokens of the teacher take {tokens * size / 1e6:.1f} MB "
            f"({size} bytes each); {free / 1e9:.1f} GB are free"
        )


def _of_model(model: Any, spec: CacheSpec, max_batch_tokens: int) -> Maker:
    """What makes shards with a bound teacher."""
    layout, device = bound_layout(model), next(model.parameters()).device

    def make(rows: Sequence[TokenRow]) -> Tensors:
        tokens = [row.for_teacher for row in rows]
        parts = []
        for indices in micro_batches(tokens, max_batch_tokens, layout):
            batch = collate([tokens[i] for i in indices], layout).to(device)
            with torch.no_grad():
                parts.append(spec.pack(model(group_batch=batch, head=spec.head)))
        return joined(parts)

    return make


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The parts one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _plan(rows: Sequence[TokenRow], shard_tokens: int) -> list[tuple[int, int]]:
    """The rows [start, end) of each shard."""
    bounds, tokens = [0], 0
    for index, row in enumerate(rows):
        if tokens and tokens + len(row.response) > shard_tokens:
            bounds.append(index)
            tokens = 0
        tokens += len(row.response)
    return list(zip(bounds, [*bounds[1:], len(rows)], strict=True))


def _offsets(
    rows: Sequence[TokenRow], shards: Sequence[tuple[int, int]]
) -> dict[int, tuple[int, int]]:
    """Where a row's tokens begin, by its index: shard and offset."""
    where = {}
    for shard, (start, end) in enumerate(shards):
        offset = 0
        for row in rows[start:end]:
            where[row.index] = (shard, offset)
            offset += len(row.response)
    return where


def bits_for(vocabulary: int) -> int:
    """Bits of the largest id."""
    return max(1, (vocabulary - 1).bit_length())


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` ids."""
    return -(-count * bits // 8)


def pack(ids: Tensor, bits: int) -> Tensor:
    """[N, k] ids below ``2**bits`` -> [N, packed_size(k, bits)] uint8, lowest bit first."""
    places = (ids.cpu().numpy()[..., None] >> np.arange(bits)) & 1
    flat = places.astype(np.uint8).reshape(len(ids), -1)
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little"))


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """[N, bytes] uint8 -> [N, count] int64."""
    flat = np.unpackbits(packed.numpy(), axis=1, count=count * bits, bitorder="little")
    places = flat.reshape(len(packed), count, bits).astype(np.int64)
    return torch.from_numpy(places @ (1 << np.arange(bits)))
