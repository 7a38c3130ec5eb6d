"""The sample stage: a model writes responses to prompts, row by row into the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

from rankdistill.cluster.ray import rows_of
from rankdistill.cluster.work import Sampling
from rankdistill.console import progress, result
from rankdistill.models import Rows, ServedModel, encode_prompt
from rankdistill.sample import Request, SamplingOptions
from rankdistill.stages.agreement import keep_logps
from rankdistill.stages.run import Model, Run
from rankdistill.stages.served import write
from rankdistill.store import Partial
from rankdistill.store.sequences import values_of
from rankdistill.store.sharing import Chunk, collect, share, was_shared
from rankdistill.thoughts import thought_counts


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
        **run.sampled_by(model),
        "options": vars(options),
        **model.thoughts_identity,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        return _sample_rows(run, model, prompts, options, source, partial)

    named = ["held out" if split == "heldout" else split for split in splits]
    where = f"{run.sampler_name}, {' and '.join(named)}"
    what = f"{who or source}: {len(prompts)} prompts x {responses_per_prompt} ({where})"
    number, takes_part = run.workers()
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
    asked = _Asked(run, model, prompts.rows, options, source)
    if run.settings.cluster is not None or run.workers()[0] > 1 or was_shared(partial):
        seconds = _write_together(run, asked, partial)
    else:
        seconds = _write_alone(asked, partial)
    if not partial.writable:
        return {}
    groups = partial.shards().rows()
    if groups and run.settings.cluster is None:  # a replica loads the model anew for every stage
        keep_logps(run.sampler(), model, dict(asked.requests), groups, partial.path)
    rate = asked.tokens / seconds if asked.tokens else 0.0
    counts = _counts(groups)
    if lost := counts.get("thoughts_without_answer"):
        result(
            f"{lost} of {counts['responses']} responses ended before their thought did and have no "
            "answer: raise sample.max_response_tokens, or have the template leave thoughts out "
            "('student.chat_template_kwargs={enable_thinking: false}', where it reads that)."
        )
    return {**counts, "tokens_per_second": rate}


def _write_alone(asked: _Asked, partial: Partial) -> float:
    """One row after the other; returns the seconds that it took."""
    shards = partial.shards()
    done = set(values_of(shards.rows(), "prompt_id"))
    left = [place for place, name in enumerate(asked.names) if name not in done]
    if not left:
        return 0.0
    asked.prepare()
    started = time.monotonic()
    with progress(len(asked.names), "prompts", done=len(done)) as bar:
        for row in asked.here(range(len(asked.names)), left):
            shards.append([row])
            bar.advance()
    return time.monotonic() - started


def _write_together(run: Run, asked: _Asked, partial: Partial) -> float:
    """With other processes, or on a cluster; returns the seconds that it took."""
    at_once, on_cluster = run.sampler().prompts_at_once(asked.options), run.settings.cluster
    if on_cluster is None:
        asked.prepare()
    started = time.monotonic()
    with progress(len(asked.names), "prompts") as bar:
        if on_cluster is None:
            share(partial, asked.names, at_once, asked.here, advance=bar.advance)
        else:
            collect(partial, asked.names, at_once, asked.there, advance=bar.advance)
    return time.monotonic() - started


class _Asked:
    """The prompts of a stage, in tokens, and what makes rows of some of them."""

    def __init__(
        self, run: Run, model: Model, rows: Sequence[Any], options: SamplingOptions, source: str
    ) -> None:
        self._run, self._model, self._rows, self._source = run, model, rows, source
        self.options = options
        self._by_id = {name: index for index, name in enumerate(values_of(rows, "prompt_id"))}
        self.names = list(self._by_id)
        """Their ids, each once; a place is one in these."""
        tokenizer = model.tokenizer()
        told = "teacher_messages" if source == "teacher" else "messages"
        prompts = map(rows.__getitem__, self._by_id.values())
        self.requests: list[Request] = [
            (prompt["prompt_id"], encode_prompt(tokenizer, prompt.get(told) or prompt["messages"]))
            for prompt in prompts
        ]
        self.tokens = 0
        """That were written by now."""

    def prepare(self) -> None:
        """Loads the model."""
        self._run.sampler().prepare(self._model, self.requests, self.options)

    def here(self, places: Sequence[int], left: Sequence[int]) -> Iterator[Any]:
        """The rows of those that are `left`, by the sampler of this process."""
        requests, done = self._of(places, left)
        sampler = self._run.sampler()
        written = sampler.sample(self._model, requests, self.options, self._source, done=done)
        return starmap(self._row, written)

    def there(self, chunks: Sequence[Chunk]) -> Iterator[Any]:
        """The rows of those that are left in the chunks, by replicas, in any order."""
        run, cluster = self._run, self._run.settings.cluster
        assert cluster is not None
        work = Sampling(self._model, self.options, self._source, *run.sampler_elsewhere)
        asked = [[requests, sorted(done)] for requests, done in starmap(self._of, chunks)]
        for row in rows_of(cluster, work, asked, run.gpus_each):
            yield self._row(row["prompt_id"], row["responses"])

    def _of(self, places: Sequence[int], left: Sequence[int]) -> tuple[list[Request], set[str]]:
        """The requests of a chunk, and the ids of those that are done: batches stay the same."""
        done = {self.names[place] for place in set(places).difference(left)}
        return [self.requests[place] for place in places], done

    def _row(self, name: str, responses: Sequence[Any]) -> dict[str, Any]:
        self.tokens += sum(len(response["token_ids"]) for response in responses)
        return {**self._rows[self._by_id[name]], "responses": responses}


def _counts(rows: Sequence[Any]) -> dict[str, int]:
    counts = Counter(prompts=len(rows), responses=0, tokens=0, cut_by_length=0)
    for row in rows:
        for response in row["responses"]:
            counts["responses"] += 1
            counts["tokens"] += len(response["token_ids"])
            counts["cut_by_length"] += response["finish_reason"] == "length"
    return {**counts, **thought_counts(r for row in rows for r in row["responses"])}
