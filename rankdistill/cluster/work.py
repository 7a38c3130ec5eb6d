"""What a replica does: it holds a sampler or a scorer, and makes the rows of chunk after chunk.

It is pickled once for each replica; chunks and rows are JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from rankdistill.errors import UserError
from rankdistill.models import Model
from rankdistill.sample import Sampler, SamplingOptions, open_sampler
from rankdistill.score import Scorer, TeacherAccess, score_groups

SPENT = "spent"
"""In a scored row: what it and those behind it took."""

MakeRows = Callable[[Any], Iterator[Mapping[str, Any]]]
"""The rows of a chunk."""


class Work(Protocol):
    """Of a replica."""

    def opened(self) -> MakeRows:
        """What makes rows on the machine that it is called on. UserError: it cannot work there."""
        ...


@dataclass(frozen=True)
class Sampling:
    """Chunks are `[requests, ids that are done]`; rows have a `prompt_id` and its `responses`."""

    model: Model
    options: SamplingOptions
    source: str
    name: str
    """Of the sampler."""
    settings: Mapping[str, Any]
    """What `open_sampler` takes for it."""
    own: Sampler | None = None
    """One of the user's."""

    def opened(self) -> MakeRows:
        _require_here(self.model)
        sampler = self.own or open_sampler(self.name, **self.settings)

        def make(chunk: Any) -> Iterator[Mapping[str, Any]]:
            requests, done = chunk
            asked = [(name, ids) for name, ids in requests]
            written = sampler.sample(self.model, asked, self.options, self.source, done=done)
            for prompt_id, responses in written:
                yield {"prompt_id": prompt_id, "responses": responses}

        return make


@dataclass(frozen=True)
class Scoring:
    """Chunks are groups; rows are the groups with their scores, and what it took under `SPENT`."""

    scorer: Scorer
    name: str
    access: TeacherAccess
    """Pickled without an engine, which each replica has for itself."""
    engine: Mapping[str, Any]
    """What `open_sampler` takes for it."""

    def opened(self) -> MakeRows:
        if self.scorer.uses_teacher:
            _require_here(self.access.teacher)
            _require_here(self.access.writer)
        engine: Any = cache(partial(open_sampler, "vllm", **self.engine))
        access = replace(self.access, engine=engine)
        return partial(scored_rows, self.scorer, self.name, access)


def scored_rows(
    scorer: Scorer, name: str, access: TeacherAccess, groups: Sequence[Any]
) -> Iterator[Mapping[str, Any]]:
    """The groups with their scores; what a part took is in its first row, under `SPENT`."""
    counts = Counter[str]()
    for first, *others in score_groups(scorer, groups, access, name=name, counts=counts):
        yield {**first, SPENT: dict(counts)}
        yield from others  # type: ignore[misc]
        counts.clear()


def _require_here(model: Model) -> None:
    """UserError where this machine does not see the folder of a model."""
    if Path(model.path).is_absolute() and not Path(model.path).is_dir():
        raise UserError(
            f"A machine of the cluster does not see {model.path}: put it, and RANKDISTILL_HOME, on "
            "a folder that all machines share under the same name; of a hub's model, HF_HOME."
        )
