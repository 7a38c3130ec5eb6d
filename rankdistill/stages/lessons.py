"""The lessons stage: the responses that a warm-up learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rankdistill.errors import UserError
from rankdistill.prompts import prompt_id, source_identity
from rankdistill.rows import Group, Prompt
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.score import score
from rankdistill.store import Output, Partial
from rankdistill.warmup.conversations import Conversations
from rankdistill.warmup.lessons import (
    Lessons,
    asked,
    chosen,
    from_data,
    without_thoughts,
)


@dataclass(frozen=True)
class Taught:
    """Prompts with the responses that are learned."""

    train: list[Group]
    validation: list[Group]
    """What the warm-up is measured on while it runs."""
    key: Any
    """What determines them."""
    writer: Model
    """The model whose tokens they have."""
    prompts: list[Prompt]
    """Of the train split, with or without a response."""
    prompts_key: str


def teach(run: Run, prompts: Output, by_split: Mapping[str, list[Prompt]]) -> Taught | None:
    """What the warm-up of the settings learns from; None where it learns nothing.

    Raises:
        UserError: No response is left, or the prompts came with none.
    """
    lessons: Lessons | None = run.settings.warmup.lessons
    if lessons is None:
        return None
    if lessons.source == "conversations":
        outputs = [_of_conversations(run, by_split)]
    elif lessons.source == "data":
        outputs = [_of_data(run, prompts)]
    else:
        outputs = [
            _written(run, by_split[split], prompts.key, lessons, count)
            for split, count in (("train", lessons.responses_per_prompt), ("validation", 1))
            if by_split[split] and count
        ]
    groups: list[Any] = [group for output in outputs for group in output.rows()]
    of_split = {
        split: [group for group in groups if group["split"] == split]
        for split in ("train", "validation")
    }
    if not of_split["train"] and lessons.responses_per_prompt:
        raise UserError(_nothing(run, lessons))
    return Taught(
        **of_split,
        key=[output.key for output in outputs],
        writer=run.teacher if lessons.source == "teacher" else run.start,
        prompts=by_split["train"],
        prompts_key=prompts.key,
    )


def _nothing(run: Run, lessons: Lessons) -> str:
    if lessons.source == "conversations":
        path = run.settings.options["warmup"]["conversations"]
        return (
            f"warmup.conversations '{path}' leaves nothing to learn: it needs conversations in "
            "which an assistant answers, more than warmup.validation_conversations of them, whose "
            "first answer begins within warmup.max_conversation_tokens."
        )
    if lessons.source == "data":
        return (
            "warmup.learn_from is data, but no train prompt of "
            f"'{run.settings.prompts.path}' has a response: name its column as "
            "prompts.response_column, or set warmup.learn_from=teacher."
        )
    return (
        "no response of the teacher is left to learn from: lower warmup.minimum_score, let it "
        "write more (warmup.responses_per_prompt), or set warmup=none."
    )


def _of_data(run: Run, prompts: Output) -> Output:
    identity = {"code": 2, "prompts": prompts.key, "tokenizer": dict(run.start.identity)}

    def make(partial: Partial) -> Mapping[str, Any]:
        groups = from_data(
            [row for row in prompts.rows() if row["split"] != "heldout"],
            run.start.tokenizer(),
        )
        partial.shards().put(groups)
        return {"prompts": len(groups)}

    return run.stage("lessons", "the responses that the prompts came with", identity, make)


def _of_conversations(run: Run, by_split: Mapping[str, list[Prompt]]) -> Output:
    """Conversations of a data set of their own, none of which answers what is measured on."""
    warmup: Any = run.settings.warmup
    own: Conversations = warmup.own_conversations
    measured_on = [*by_split["validation"], *by_split["heldout"]]
    held_out = {prompt_id(prompt["messages"]) for prompt in measured_on}
    identity = {
        "code": 3,
        "conversations": source_identity(own.path),
        "max_tokens": own.max_tokens,
        "train": own.train,
        "validation": own.validation,
        "held_out": hashlib.sha256(json.dumps(sorted(held_out)).encode()).hexdigest(),
        "tokenizer": dict(run.start.identity),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        groups, counts = own.read(run.start.tokenizer(), held_out)
        partial.shards().put(groups)
        return counts

    return run.stage("lessons", own.path, identity, make)


def _written(
    run: Run, prompts: Sequence[Prompt], prompts_key: str, lessons: Lessons, count: int
) -> Output:
    """The teacher's responses to prompts of one split: as sampled, or what is chosen of them.

    Only train responses are chosen by score: what is measured on is not selected.
    """
    key: Any = prompts_key
    if lessons.request is not None:
        key = f"{prompts_key} {lessons.request}"
    asking: list[Any] = [{**p, "messages": asked(p["messages"], lessons.request)} for p in prompts]
    sampled = sample(run, run.teacher, asking, key, "teacher", count)
    if lessons.as_sampled:
        return sampled
    messages = {prompt["prompt_id"]: prompt["messages"] for prompt in prompts}
    whole: list[Any] = [{**r, "messages": messages[r["prompt_id"]]} for r in sampled.rows()]
    tokenizer = run.teacher.tokenizer()
    answers = [without_thoughts(group, tokenizer) for group in whole]
    if prompts[0]["split"] != "train":
        lessons = replace(lessons, keep="all", minimum_score=None)
    scores_of = _scores(run, answers, sampled.key) if lessons.scored else None
    identity = {
        "code": 1,
        "sampled": sampled.key,
        "scored": scores_of[0] if scores_of else None,
        "lessons": asdict(lessons),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        learned = whole if lessons.thoughts else answers
        groups, counts = chosen(learned, scores_of[1] if scores_of else None, lessons)
        partial.shards().put(groups)
        return {"prompts": len(groups), **counts}

    return run.stage("lessons", f"chosen from {len(whole)} prompts' responses", identity, make)


def _scores(run: Run, answers: Sequence[Group], key: str) -> tuple[str, list[list[float | None]]]:
    """The scorer's values `[group][response]` and the key of its output.

    Answers without a token are not shown to the scorer, and have no score.
    """
    shown: list[Any] = [
        {**group, "responses": [r for r in group["responses"] if r["token_ids"]]}
        for group in answers
    ]
    shown = [group for group in shown if group["responses"]]
    output = score(run, shown, {"answers": key}, run.teacher, f"teacher, {len(shown)} prompts")
    values = {
        row["prompt_id"]: iter([response.get("score") for response in row["responses"]])
        for row in output.rows()
    }
    return output.key, [
        [
            next(values[group["prompt_id"]]) if response["token_ids"] else None
            for response in group["responses"]
        ]
        for group in answers
    ]
