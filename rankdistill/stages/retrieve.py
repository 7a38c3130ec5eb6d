"""The retrieve stage: what a first stage finds for each query, and how the teacher orders it.

A query is a prompt and its passages are the responses, so that a reward model which learns the
ranking is a cross-encoder: it reads query and passage together and gives one number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rankdistill.console import progress
from rankdistill.models import Rows, encode_prompt, encode_response
from rankdistill.prompts import prompt_id
from rankdistill.prompts.splits import SPLITS, Splitter, require_splits
from rankdistill.retrieval.search import (
    Collection,
    cut_passage,
    open_retriever,
    retriever_identity,
)
from rankdistill.rows import Group, Message, Response
from rankdistill.stages.run import Run
from rankdistill.stages.score import score
from rankdistill.store import Partial


def retrieve(run: Run, collection: Collection) -> Rows:
    """For each query a group of the passages that the retriever finds, the best first.

    `columns` of a group holds the ids of its `passages`, and of all that are `relevant`. Queries of
    the train split keep `retrieval.train_passages` of them, spread evenly over their ranks, so that
    easy and hard ones are among them.

    Raises:
        UserError: no query is left to train on or to report on.
    """
    settings, prompts = run.settings.retrieval, run.settings.prompts
    assert settings is not None
    identity = {
        "code": 1,
        "collection": collection.digest,
        **retriever_identity(settings.encoder),
        "passages": settings.passages,
        "train_passages": settings.train_passages,
        "max_passage_tokens": settings.max_passage_tokens,
        "max_prompt_tokens": prompts.max_prompt_tokens,
        "splits": asdict(prompts.splits),
        "limit": asdict(prompts.limit),
        "tokenizer": run.start.tokenizer_identity,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        tokenizer = run.start.tokenizer()
        chosen, counts = _queries(run, collection, tokenizer)
        names, texts = list(collection.passages), list(collection.passages.values())
        retriever = open_retriever(settings.encoder, texts)
        groups: list[Any] = []
        with progress(len(chosen), "prompts") as bar:
            for query in chosen:
                found = retriever.top(query["text"], settings.passages)
                if query["split"] == "train":
                    found = _spread(found, settings.train_passages)
                most = settings.max_passage_tokens
                responses = [_passage(tokenizer, texts[i], most) for i in found]
                groups.append(_group(query, responses, [names[i] for i in found]))
                bar.advance(1)
        partial.shards().put(groups)
        return counts | {"corpus": len(texts)}

    how = settings.encoder or "BM25"
    output = run.stage("retrieve", f"{settings.corpus}, by {how}", identity, make)
    groups = Rows.of(output, run.start)
    require_splits(groups.counts, "retrieval.queries", "train", "heldout")
    return groups


def _group(query: Mapping[str, Any], responses: list[Response], passages: list[str]) -> Group:
    """A query with the passages that were found for it, whose ids `passages` are."""
    return Group(
        prompt_id=query["prompt_id"],
        split=query["split"],
        messages=query["messages"],
        responses=responses,
        columns=json.dumps({"passages": passages, "relevant": query["relevant"]}),
    )


def graded_by_teacher(run: Run, candidates: Rows) -> Rows:
    """The groups scored by the teacher.

    A likelihood is asked for the query given each passage, log p(query | passage): the query
    likelihood of UPR (Sachan et al. 2022, arXiv:2204.07496), which needs no judgement to be
    written. Any other scorer judges the passages as responses to the query, as RankGPT does (Sun et
    al. 2023, arXiv:2304.09542).
    """
    assert run.settings.retrieval is not None
    if not by_query_likelihood(run):
        return score(run, candidates, f"{len(candidates)} queries")
    candidates, request = candidates.held(), run.settings.retrieval.request
    asked = by_passage(candidates.rows, request, run.start.tokenizer())
    turned = Rows(asked, [candidates.key, request], run.start)
    scored = score(run, turned, f"queries under {len(turned)} passages")
    return replace(scored, source=_back(candidates.rows, scored.rows))


def by_query_likelihood(run: Run) -> bool:
    """Whether the teacher reads the query under the passage."""
    return [s.is_likelihood for s in run.settings.scorer.members.values()] == [True]


def by_passage(groups: Sequence[Group], request: str, tokenizer: Any) -> list[Group]:
    """The same pairs the other way round: a passage is the prompt, all its queries the responses.

    A passage that many queries found is read once. The query's `source` is its group's id.
    """
    turned: dict[str, Group] = {}
    for group in groups:
        text = group["messages"][-1]["content"]
        query = Response(
            text=text,
            token_ids=encode_response(tokenizer, text),
            finish_reason="stop",
            source=group["prompt_id"],
        )
        for passage in group["responses"]:
            content = request.replace("{passage}", passage["text"])
            messages = [Message(role="user", content=content)]
            empty = Group(
                prompt_id=prompt_id([{"role": "passage", "content": passage["text"]}]),
                split=group["split"],
                messages=messages,
                responses=[],
            )
            turned.setdefault(empty["prompt_id"], empty)["responses"].append(query)
    return list(turned.values())


def _back(groups: Sequence[Group], turned: Sequence[Any]) -> list[Group]:
    values = {
        (row["prompt_id"], query["source"]): (query["scores"], query["score"])
        for row in turned
        for query in row["responses"]
    }
    result = []
    for group in groups:
        responses = []
        for passage in group["responses"]:
            name = prompt_id([{"role": "passage", "content": passage["text"]}])
            scores, value = values[name, group["prompt_id"]]
            responses.append({**passage, "scores": scores, "score": value})
        result.append({**group, "responses": responses})
    return result


def _queries(
    run: Run, collection: Collection, tokenizer: Any
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The queries as prompts, split and limited as those are."""
    prompts = run.settings.prompts
    splitter = Splitter(asdict(prompts.splits), asdict(prompts.limit), seed=0)
    counts: Counter[str] = Counter(queries=len(collection.queries), too_long=0, duplicates=0)
    kept: dict[str, Any] = {}
    for query in collection.queries:
        messages = [Message(role="user", content=query.text)]
        identifier = prompt_id(messages)
        if collection.judged and not query.relevant:
            counts["without_relevant"] += 1
        elif identifier in kept:
            counts["duplicates"] += 1
        elif len(encode_prompt(tokenizer, messages)) > prompts.max_prompt_tokens:
            counts["too_long"] += 1
        else:
            kept[identifier] = {
                "prompt_id": identifier,
                "split": splitter.split_of(query.group or identifier, query.split, query.where),
                "messages": messages,
                "text": query.text,
                "relevant": query.relevant,
            }
    chosen: list[Any] = splitter.ordered(kept.values())
    return chosen, counts | {name: sum(q["split"] == name for q in chosen) for name in SPLITS}


def _spread(found: list[int], count: int) -> list[int]:
    """`count` of them from first to last, at equal distances."""
    if len(found) <= count:
        return found
    step = (len(found) - 1) / (count - 1)
    return [found[round(i * step)] for i in range(count)]


def _passage(tokenizer: Any, text: str, most: int) -> Response:
    """A passage as a response of at most `most` tokens: it ends with EOS."""
    text, token_ids = cut_passage(tokenizer, text, most)
    return Response(text=text, token_ids=token_ids, finish_reason="stop", source="corpus")
