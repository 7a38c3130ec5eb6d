"""The sample stage: a model writes responses to prompts, row by row into the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.console import progress
from rankdistill.models import Rows, ServedModel, encode_prompt
from rankdistill.sample import SamplingOptions
from rankdistill.stages.agreement import keep_logps
from rankdistill.stages.run import Model, Run
from rankdistill.stages.served import write
from rankdistill.store import Partial
from rankdistill.store.sequences import values_of


def sample(
    run: Run,
    model: Model,
    prompts: Rows,
    source: str,
    responses_per_prompt: int,
    *,
    temperature: float | None = None,
    seed: int | None = None,
    max_response_tokens: int | None = None,
    who: str | None = None,
) -> Rows:
    """Groups of responses that `model` writes to `prompts`; a killed run continues where it was.

    Args:
        source: Who writes: `student`, `teacher`.
        temperature: Instead of `sample.temperature`.
        seed: Instead of the run's.
        max_response_tokens: Instead of `sample.max_response_tokens`.
        who: For the person: which of the students writes.
    """
    options = SamplingOptions.of(
        run.settings.sample,
        run.settings.seed if seed is None else seed,
        responses_per_prompt=responses_per_prompt,
        temperature=temperature,
        max_response_tokens=max_response_tokens,
    )
    if isinstance(model, ServedModel):
        return write(run, model, prompts, source, options)
    splits = sorted(set(values_of(prompts.rows, "split")))
    identity = {
        "code": 1,
        "model": model.identity,
        "prompts": prompts.key,
        "splits": splits,
        "source": source,
        **run.sampled_by,
        "options": vars(options),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        return _sample_rows(run, model, prompts, options, source, partial)

    named = ["held out" if split == "heldout" else split for split in splits]
    where = f"{run.sampler_name}, {' and '.join(named)}"
    what = f"{who or source}: {len(prompts)} prompts x {responses_per_prompt} ({where})"
    output = run.stage("sample", what, identity, make)
    run.unchecked.setdefault(model.path, []).append(output)
    return Rows.of(output, model)


def _sample_rows(
    run: Run,
    model: Model,
    prompts: Rows,
    options: SamplingOptions,
    source: str,
    partial: Partial,
) -> Mapping[str, Any]:
    shards = partial.shards()
    done = set(values_of(shards.rows(), "prompt_id"))
    tokenizer = model.tokenizer()
    rows = prompts.rows
    by_id = {name: place for place, name in enumerate(values_of(rows, "prompt_id"))}
    asked = "teacher_messages" if source == "teacher" else "messages"

    def request(name: str) -> tuple[str, list[int]]:
        prompt = rows[by_id[name]]
        return name, encode_prompt(tokenizer, prompt.get(asked) or prompt["messages"])

    requests = [request(name) for name in by_id]
    seconds, new_tokens = 0.0, 0
    if len(done) < len(requests):
        sampler = run.sampler()
        sampler.prepare(model, requests, options)
        started = time.monotonic()
        with progress(len(requests), "prompts", done=len(done)) as bar:
            answered = sampler.sample(model, requests, options, source, done=done)
            for prompt_id, responses in answered:
                shards.append([{**rows[by_id[prompt_id]], "responses": responses}])
                new_tokens += sum(len(response["token_ids"]) for response in responses)
                bar.advance()
        seconds = time.monotonic() - started
    groups = shards.rows()
    if groups:
        keep_logps(run.sampler(), model, dict(requests), groups, partial.path)
    rate = new_tokens / seconds if new_tokens else 0.0
    return {**_counts(groups), "tokens_per_second": rate}


def _counts(rows: Sequence[Any]) -> dict[str, int]:
    counts = Counter(prompts=len(rows), responses=0, tokens=0, cut_by_length=0)
    for row in rows:
        for response in row["responses"]:
            counts["responses"] += 1
            counts["tokens"] += len(response["token_ids"])
            counts["cut_by_length"] += response["finish_reason"] == "length"
    return dict(counts)
