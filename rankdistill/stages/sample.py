"""The sample stage: a model writes responses to prompts, row by row into the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rankdistill.console import progress
from rankdistill.models import Rows, ServedModel, encode_prompt
from rankdistill.sample import Request, SamplingOptions
from rankdistill.stages.agreement import keep_logps
from rankdistill.stages.run import Model, Run
from rankdistill.stages.served import write
from rankdistill.store import Partial
from rankdistill.store.sequences import values_of
from rankdistill.store.sharing import share, was_shared


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
    number, takes_part = run.workers
    every = number > 1 and takes_part
    output = run.stage("sample", what, identity, make, every_rank=every)
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
    rows = prompts.rows
    by_id = {name: place for place, name in enumerate(values_of(rows, "prompt_id"))}
    requests = _requests(model, rows, by_id, source)
    names = list(by_id)
    new_tokens = 0

    def written(places: Sequence[int], left: Sequence[int]) -> Iterator[Any]:
        nonlocal new_tokens
        asked = [requests[place] for place in places]
        done = {names[place] for place in set(places).difference(left)}
        for name, responses in run.sampler().sample(model, asked, options, source, done=done):
            new_tokens += sum(len(response["token_ids"]) for response in responses)
            yield {**rows[by_id[name]], "responses": responses}

    shared = run.workers[0] > 1 or was_shared(partial)
    done = set() if shared else set(values_of(partial.shards().rows(), "prompt_id"))
    left = [place for place, name in enumerate(names) if name not in done]
    if left:
        run.sampler().prepare(model, requests, options)
    started = time.monotonic()
    with progress(len(names), "prompts", done=len(done)) as bar:
        if shared:
            at_once = run.sampler().prompts_at_once(options)
            share(partial, names, at_once, written, advance=bar.advance)
        elif left:
            shards = partial.shards()
            for row in written(range(len(names)), left):
                shards.append([row])
                bar.advance()
    seconds = time.monotonic() - started
    if not partial.writable:
        return {}
    groups = partial.shards().rows()
    if groups:
        keep_logps(run.sampler(), model, dict(requests), groups, partial.path)
    rate = new_tokens / seconds if new_tokens else 0.0
    return {**_counts(groups), "tokens_per_second": rate}


def _requests(
    model: Model, rows: Sequence[Any], by_id: Mapping[str, int], source: str
) -> list[Request]:
    """What the sampler is asked, by the prompt's place in `rows`."""
    tokenizer = model.tokenizer()
    told = "teacher_messages" if source == "teacher" else "messages"

    def request(name: str, place: int) -> Request:
        prompt = rows[place]
        return name, encode_prompt(tokenizer, prompt.get(told) or prompt["messages"])

    return [request(name, place) for name, place in by_id.items()]


def _counts(rows: Sequence[Any]) -> dict[str, int]:
    counts = Counter(prompts=len(rows), responses=0, tokens=0, cut_by_length=0)
    for row in rows:
        for response in row["responses"]:
            counts["responses"] += 1
            counts["tokens"] += len(response["token_ids"])
            counts["cut_by_length"] += response["finish_reason"] == "length"
    return dict(counts)
