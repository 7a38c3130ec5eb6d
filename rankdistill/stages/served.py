"""Responses of a served teacher: outputs of the sample stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rankdistill.console import progress
from rankdistill.errors import UserError
from rankdistill.models import Rows, ServedModel
from rankdistill.sample import SamplingOptions
from rankdistill.sample.endpoint import EndpointWriter
from rankdistill.schema import EndpointConfig
from rankdistill.stages.authors import endpoint_writes
from rankdistill.stages.run import Run
from rankdistill.store import Partial
from rankdistill.store.sequences import selected, values_of


def check_served(run: Run) -> None:
    """Ask the served teacher at start-up, where there is one that writes.

    Raises:
        UserError: as `EndpointWriter.check`.
    """
    if run.settings.sample.endpoint.model is None or not endpoint_writes(run.settings):
        return
    endpoint = run.settings.sample.endpoint
    most = endpoint.max_response_tokens
    options = SamplingOptions.of(run.settings.sample, 0, max_response_tokens=most)
    with EndpointWriter(endpoint, options) as writer:
        writer.check()


def write(
    run: Run, model: ServedModel, prompts: Rows, source: str, options: SamplingOptions
) -> Rows:
    """Groups of responses that a served model writes; the responses have no tokens yet.

    A killed run asks again for prompts that are not complete. Prompts without any response are left
    out. The rows stand in the order of the prompts, whatever the order of the answers.

    Args:
        source: Who writes, for the rows.
        options: `max_response_tokens` is of the model's own tokens.

    Raises:
        UserError: the endpoint stopped answering; what was written is kept.
    """
    endpoint = run.settings.sample.endpoint
    if endpoint.max_response_tokens is not None:
        options = replace(options, max_response_tokens=endpoint.max_response_tokens)
    identity = {
        "code": 1,
        "model": dict(model.identity),
        "prompts": prompts.key,
        "splits": sorted(set(values_of(prompts.rows, "split"))),
        "source": source,
        "options": vars(options),
    }
    by_id: dict[str, Any] = {prompt["prompt_id"]: prompt for prompt in prompts}

    def make(partial: Partial) -> Mapping[str, Any]:
        counts = _ask(partial, endpoint, options, by_id, source)
        if by_id and not counts["prompts"]:
            raise UserError(
                f"The served teacher '{model.path}' answered none of {len(by_id)} prompts with a "
                "text: give it room (sample.endpoint.max_response_tokens), or look at what it "
                "answers."
            )
        return counts

    where = " and ".join(endpoint.urls[:2]) + (" .." if len(endpoint.urls) > 2 else "")
    count = options.responses_per_prompt
    what = f"{source}: {len(prompts)} prompts x {count} ({model.path} at {where})"
    output = run.stage("sample", what, identity, make)
    place = {name: number for number, name in enumerate(by_id)}
    rows = output.rows()
    names = values_of(rows, "prompt_id")
    order = sorted(range(len(names)), key=lambda number: place[names[number]])
    return Rows(selected(rows, order), output.key, model, output.manifest["counts"])


def _ask(
    partial: Partial,
    endpoint: EndpointConfig,
    options: SamplingOptions,
    by_id: Mapping[str, Any],
    source: str,
) -> dict[str, Any]:
    """Write a row for each prompt that gets a response, and return the stage's counts."""
    shards, taken = partial.shards(), partial.shards("counts")
    done = set(values_of(shards.rows(), "prompt_id"))
    column = "teacher_messages" if source == "teacher" else "messages"
    requests = [
        (key, p.get(column) or p["messages"]) for key, p in by_id.items() if key not in done
    ]
    started, tokens = time.monotonic(), 0
    with EndpointWriter(endpoint, options) as writer:
        served_model = writer.check()
        with progress(len(by_id), "prompts", done=len(done)) as bar:
            for name, responses, counts in writer.write(requests, source):
                if responses:
                    shards.append([{**by_id[name], "responses": responses}])
                taken.append([counts])
                tokens += counts.get("completion_tokens", 0)
                bar.advance()
    return {
        **_counts(shards.rows(), taken.rows(), len(by_id)),
        "tokens_per_second": tokens / (time.monotonic() - started),
        **served_model,
    }


def _counts(rows: Sequence[Any], taken: Sequence[Any], asked: int) -> dict[str, Any]:
    counts = Counter[str]()
    for row in taken:
        counts.update(row)
    responses = [response for row in rows for response in row["responses"]]
    return {
        "prompts": len(rows),
        "responses": len(responses),
        "prompts_without_response": asked - len(rows),
        "cut_by_length": sum(response["finish_reason"] == "length" for response in responses),
        **counts,
    }
