"""Where a student's targets come from: a teacher that runs along, or what it left on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from rankdistill.errors import UserError
from rankdistill.forward import GroupBatch, LMHead, bind, bound_layout, collate
from rankdistill.forward.own_logits import only_linear
from rankdistill.models import Model, place
from rankdistill.models.layers import decoder_layers
from rankdistill.models.load import PRECISIONS
from rankdistill.sample.vllm import VLLMSampler
from rankdistill.warmup.head import HiddenRows, Recorder, Target, TeacherRows
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.support import SupportRows, support_of_logps
from rankdistill.warmup.teacher_cache import CacheSpec, Maker, TeacherCache, Tensors, joined


class Divergence(NamedTuple):
    """Which divergence, at which temperature."""

    name: str
    """A key of `DIVERGENCES`."""
    temperature: float


class Teacher(Protocol):
    """What gives the target of a batch."""

    def to(self, device: torch.device) -> Teacher:
        """Its tensors on `device`."""
        ...

    def target(self, batch: GroupBatch, rows: Sequence[TokenRow]) -> Target:
        """The teacher's side of the response tokens of `rows`, which `batch` holds."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """What a run records of it."""
        ...


@dataclass(frozen=True)
class TeacherModel:
    """A teacher that is still to be loaded, and how it runs."""

    model: Model
    layout: str = "shared"
    """Of the grouped forward."""

    def load(self) -> Any:
        """The teacher as `Model.load` leaves it, and bound."""
        return bind(self.model.load(), self.layout)

    def output_layer(self) -> Any:
        """The teacher without its decoder layers: enough to make logits of hidden states."""
        model = self.model.load()
        del decoder_layers(model)[:]
        return model

    def cache(
        self,
        folder: Path,
        rows: Sequence[TokenRow],
        student: Model,
        kind: str,
        k: int = 0,
        temperatures: Sequence[float] = (),
    ) -> TeacherCache:
        """The cache of this teacher's outputs in `folder`, filled or not.

        Args:
            folder: Of the cache.
            rows: The responses.
            student: Ids beyond its embedding table are not stored.
            kind: `top_k` or `hidden`.
            k: Tokens to store of each distribution, `top_k` only.
            temperatures: Those to store the mass of the rest at, `top_k` only.

        Raises:
            UserError: `k` is larger than the vocabulary.
        """
        model = self.model
        if kind == "top_k":
            shared = min(table_size(model), table_size(student))
            spec = CacheSpec(kind, shared, k, tuple(sorted(set(temperatures))))
        else:
            named = model.loading.precision
            precision = PRECISIONS[model.stored_precision() if named == "auto" else named]
            assert isinstance(precision, torch.dtype)
            size = model.config().get_text_config().hidden_size
            spec = CacheSpec(kind, hidden_size=size, hidden_bytes=precision.itemsize)
        return TeacherCache(folder, spec, rows)


def table_size(model: Model) -> int:
    """Rows of a model's embedding table: its vocabulary, padding included."""
    return model.config().get_text_config().vocab_size


def from_vllm(sampler: VLLMSampler, teacher: Model, spec: CacheSpec) -> Maker:
    """What makes `top_k` shards with a teacher that vLLM runs.

    Raises:
        UserError: A likely token of the teacher is none of those that the student shares.
    """

    def make(rows: Sequence[TokenRow]) -> Tensors:
        parts = []
        pairs = [(row.for_teacher.prompt, row.response) for row in rows]
        for ids, values in sampler.top_logps(teacher, pairs, spec.k):
            found = torch.tensor(ids)
            if int(found.max()) >= spec.vocabulary:
                raise UserError(
                    f"a likely token of the teacher is beyond the {spec.vocabulary:,} that the "
                    "student shares with it: set warmup.top_k_from=transformers, which leaves it "
                    "out."
                )
            logps = torch.tensor(values, dtype=torch.float64)
            parts.append(spec.pack(support_of_logps(found, logps, spec.vocabulary)))
        return joined(parts)

    return make


class LiveTeacher:
    """A teacher that runs on every micro-batch, on the same tokens as the student, or on the same
    responses behind what it alone is shown.

    Args:
        model: Frozen and bound, see `TeacherModel.load`.
        divergence: What the student is measured by.
        recorder: Of states inside the model that are matched.
    """

    def __init__(
        self, model: Any, divergence: Divergence, recorder: Recorder | None = None
    ) -> None:
        self._model, self._divergence, self._recorder = model, divergence, recorder

    @property
    def figures(self) -> dict[str, float]:
        return {}

    def to(self, device: torch.device) -> LiveTeacher:
        """The teacher on `device`."""
        place(self._model, device)
        return self

    @torch.no_grad()
    def target(self, batch: GroupBatch, rows: Sequence[TokenRow]) -> Target:
        """The teacher's side of the response tokens of `rows`, which `batch` holds."""
        if any(row.seen is not None for row in rows):
            shown = [row.for_teacher for row in rows]
            batch = collate(shown, bound_layout(self._model)).to(
                next(self._model.parameters()).device
            )
        if self._recorder is not None:
            self._recorder.arm()
        head = HiddenRows(self._recorder)
        hidden, lm_head, states = self._model(group_batch=batch, head=head)
        return TeacherRows(hidden, lm_head, *self._divergence, states)


class CachedTeacher:
    """A teacher whose outputs are read from a complete `TeacherCache`.

    Args:
        cache: Of the rows that are asked for.
        divergence: What the student is measured by.
        output_layer: See `TeacherModel.output_layer`; for a cache of hidden states.

    Raises:
        UserError: A cache of supports was not made for the temperature.
    """

    def __init__(
        self, cache: TeacherCache, divergence: Divergence, output_layer: Any = None
    ) -> None:
        self._cache, self._divergence, self._model = cache, divergence, output_layer
        self._device = torch.device("cpu")
        if cache.spec.kind == "top_k":
            self._column = cache.spec.column(divergence.temperature)
        else:
            self._lm_head = LMHead(output_layer, only_linear(output_layer))

    @property
    def figures(self) -> dict[str, float]:
        return {"cache_bytes_per_token": self._cache.bytes_per_token}

    def to(self, device: torch.device) -> CachedTeacher:
        """What is read goes to `device`."""
        self._device = device
        if self._model is not None:
            place(self._model, device)
        return self

    def target(self, batch: GroupBatch, rows: Sequence[TokenRow]) -> Target:
        """The teacher's side of the response tokens of `rows`."""
        tensors = self._cache.read(rows)
        if self._cache.spec.kind == "hidden":
            hidden = tensors["hidden"].to(self._device)
            return TeacherRows(hidden, self._lm_head, *self._divergence)
        stored = self._cache.spec.support(tensors)
        ids, values, log_tail = (tensor.to(self._device) for tensor in stored)
        tail, vocabulary = log_tail[:, self._column], self._cache.spec.vocabulary
        return SupportRows(ids, values, tail, *self._divergence, vocabulary)
