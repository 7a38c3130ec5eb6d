"""The sample stage: a model writes responses to prompts, row by row into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.console import progress
from rankdistill.models import encode_prompt, load_tokenizer
from rankdistill.records import Group, Prompt
from rankdistill.run import Model, Run
from rankdistill.sample import SamplingOptions
from rankdistill.store import Output, Partial


def sample(
    run: Run,
    model: Model,
    prompts: Sequence[Prompt],
    prompts_key: str,
    source: str,
    responses_per_prompt: int,
    *,
    temperature: float | None = None,
) -> Output:
    """Groups of responses that `model` writes to `prompts`; a killed run continues with the next prompt.

    Args:
        prompts_key: What determines `prompts`.
        source: Who writes: `student`, `teacher`.
        temperature: Instead of `sample.temperature`.
    """
    settings = run.settings.sample
    options = SamplingOptions(
        responses_per_prompt=responses_per_prompt,
        temperature=settings.temperature if temperature is None else temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_response_tokens=settings.max_response_tokens,
        seed=run.settings.seed,
    )
    splits = sorted({prompt["split"] for prompt in prompts})
    identity = {
        "code": 1,
        "model": model.identity,
        "prompts": prompts_key,
        "splits": splits,
        "source": source,
        "sampler": run.sampler_name,
        "dtype": settings.vllm.dtype if run.sampler_name == "vllm" else None,
        "options": vars(options),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        return _sample_rows(run, model, prompts, options, source, partial)

    what = f"{source}: {len(prompts)} prompts x {responses_per_prompt} ({run.sampler_name}, {' and '.join(splits)})"
    return run.stage("sample", what, identity, make)


def _sample_rows(
    run: Run,
    model: Model,
    prompts: Sequence[Prompt],
    options: SamplingOptions,
    source: str,
    partial: Partial,
) -> Mapping[str, Any]:
    shards = partial.shards()
    done = {row["prompt_id"] for row in shards.rows()}
    tokenizer = load_tokenizer(model.path)
    left = {prompt["prompt_id"]: prompt for prompt in prompts if prompt["prompt_id"] not in done}
    requests = [(key, encode_prompt(tokenizer, prompt["messages"])) for key, prompt in left.items()]
    seconds = 0.0
    import time

    with progress(len(prompts), "prompts", done=len(done)) as bar:
        if requests:
            sampler = run.sampler()
            started = time.monotonic()
            for prompt_id, responses in sampler.sample(Path(model.path), requests, options, source):
                group: Group = {**left[prompt_id], "responses": responses}
                shards.append([group])
                bar.advance()
            seconds = time.monotonic() - started
    rows = shards.rows()
    tokens = sum(len(r["token_ids"]) for row in rows for r in row["responses"])
    cut = sum(r["finish_reason"] == "length" for row in rows for r in row["responses"])
    new = sum(len(r["token_ids"]) for row in rows if row["prompt_id"] in left for r in row["responses"])
    return {
        "prompts": len(rows),
        "responses": sum(len(row["responses"]) for row in rows),
        "tokens": tokens,
        "cut_by_length": cut,
        "tokens_per_second": new / seconds if seconds else 0.0,
    }
