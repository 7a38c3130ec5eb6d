"""What a model writes to a suite's questions, row by row into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankdistill.console import progress
from rankdistill.models import encode_prompt
from rankdistill.sample import SamplingOptions
from rankdistill.sample.model_folder import max_positions
from rankdistill.store import Shards

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run

STEP = 128
"""Where a full response does not fit behind its prompt, it may have a multiple of these tokens."""


@dataclass(frozen=True)
class Request:
    """A conversation that is to be answered."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    temperature: float


def write_answers(
    run: Run, model: Model, requests: Sequence[Request], max_response_tokens: int, shards: Shards
) -> dict[str, str]:
    """The text of every response by id; without those whose prompt leaves the model no room.

    Sampled without top-p and top-k. Rows of `id` and `text` that are in the shards are not written
    again.
    """
    tokenizer = model.tokenizer()
    positions = max_positions(model.folder) or 2**31
    grouped: dict[tuple[float, int], list[tuple[str, list[int]]]] = {}
    for request in requests:
        ids = encode_prompt(tokenizer, request.messages)
        room = positions - len(ids)
        most = max_response_tokens if room >= max_response_tokens else room // STEP * STEP
        if most > 0:
            grouped.setdefault((request.temperature, most), []).append((request.id, ids))
    done = {row["id"] for row in shards.rows()}
    with progress(sum(map(len, grouped.values())), "responses", done=len(done)) as bar:
        for (temperature, most), asked in sorted(grouped.items()):
            if all(name in done for name, _ in asked):
                continue
            options = SamplingOptions(1, temperature, 1.0, 0, most, run.settings.seed)
            sampler = run.sampler()
            sampler.prepare(model, asked, options)
            for name, responses in sampler.sample(model, asked, options, "student", done=done):
                shards.append([{"id": name, "text": responses[0]["text"]}])
                bar.advance()
    return {row["id"]: row["text"] for row in shards.rows()}


def sampled_by(run: Run) -> dict[str, Any]:
    """What the identity of such answers says of how they were sampled."""
    return {**run.sampled_by, "seed": run.settings.seed}
