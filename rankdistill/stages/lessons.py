"""The lessons stage: the responses that a warm-up learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import Rows, written
from rankdistill.prompts import prompt_id, source_identity
from rankdistill.rows import Group
from rankdistill.stages.prompts import read_set
from rankdistill.stages.run import Run
from rankdistill.stages.sample import sample
from rankdistill.stages.score import score
from rankdistill.store import Partial
from rankdistill.thoughts import thinks
from rankdistill.warmup.conversations import Conversations
from rankdistill.warmup.lessons import (
    Lessons,
    asked,
    chosen,
    from_data,
    without_thoughts,
)


def teach(run: Run, prompts: Rows, by_split: Mapping[str, Rows]) -> Rows | None:
    """What the warm-up of the settings learns from; None where it learns nothing.

    Groups of the train split are learned, those of validation it is measured on while it runs.

    Raises:
        UserError: No response is left, or the prompts came with none.
    """
    lessons: Lessons | None = run.settings.warmup.lessons
    if lessons is None:
        return None
    most = run.settings.warmup.max_prompts
    by_split = {**by_split, "train": by_split["train"].at_most(most)}
    if (own := run.settings.warmup.own_conversations) is not None:
        outputs = [_of_conversations(run, own, by_split)]
    elif lessons.source == "data":
        outputs = [_of_data(run, prompts, most)]
    else:
        outputs = [
            _written(run, by_split[split], lessons, count)
            for split, count in (("train", lessons.responses_per_prompt), ("validation", 1))
            if by_split[split].rows and count
        ]
    groups = [group for output in outputs for group in output]
    writer = run.teacher_tokens if lessons.source == "teacher" else run.start
    taught = Rows(groups, [output.key for output in outputs], writer)
    if not taught.of_splits("train").rows and lessons.responses_per_prompt:
        raise UserError(_nothing(run, lessons))
    return taught


def _nothing(run: Run, lessons: Lessons) -> str:
    own = run.settings.warmup.own_conversations
    if own is not None:
        return (
            f"warmup.conversations '{own.path}' leaves nothing to learn: it needs conversations in "
            "which an assistant answers, more than warmup.validation_conversations of them, whose "
            "first answer begins within warmup.max_conversation_tokens."
        )
    if lessons.source == "data":
        return (
            "warmup.learn_from is data, but no train prompt of "
            f"'{run.settings.prompts.named}' has a response: name its column as "
            "prompts.response_column, or set warmup.learn_from=teacher."
        )
    return (
        "no response of the teacher is left to learn from: lower warmup.minimum_score, let it "
        "write more (warmup.responses_per_prompt), or set warmup=none."
    )


def _of_data(run: Run, prompts: Rows, most: int | None) -> Rows:
    identity = {"code": 2, "prompts": prompts.key, "tokenizer": run.start.tokenizer_identity}
    if most is not None:
        identity["max_prompts"] = most

    def make(partial: Partial) -> Mapping[str, Any]:
        answered = [*prompts.of_splits("train").rows[:most], *prompts.of_splits("validation").rows]
        groups = from_data(answered, run.start.tokenizer())
        partial.shards().put(groups)
        return {"prompts": len(groups)}

    return Rows.of(run.stage("lessons", "the responses that the prompts came with", identity, make))


def _of_conversations(run: Run, own: Conversations, by_split: Mapping[str, Rows]) -> Rows:
    """Conversations of a data set of their own, none of which answers what is measured on."""

    measured_on = [*by_split["validation"], *by_split["heldout"]]
    held_out = {prompt_id(prompt["messages"]) for prompt in measured_on}
    identity = {
        "code": 4,
        "conversations": source_identity(own.path, ()),
        "max_tokens": own.max_tokens,
        "train": own.train,
        "validation": own.validation,
        "held_out": hashlib.sha256(json.dumps(sorted(held_out)).encode()).hexdigest(),
        "tokenizer": run.start.tokenizer_identity,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        groups, counts = own.read(run.start.tokenizer(), held_out)
        partial.shards().put(groups)
        return counts

    return Rows.of(read_set(run, "lessons", own.path, identity, make))


def _written(run: Run, prompts: Rows, lessons: Lessons, count: int) -> Rows:
    """The teacher's responses to prompts of one split: as sampled, or what is chosen of them.

    Only train responses are chosen by score: what is measured on is not selected.
    """
    asking = [_asked(prompt, lessons.request) for prompt in prompts]
    key = prompts.key if lessons.request is None else f"{prompts.key} {lessons.request}"
    reader = run.teacher_tokens
    sampled = sample(run, run.writing_teacher, Rows(asking, key), "teacher", count)
    if lessons.as_sampled:
        return sampled.recoded(reader)
    names = ("messages", "teacher_messages")
    messages = {p["prompt_id"]: {n: p[n] for n in names if n in p} for p in prompts}
    asked_as_is = [{**row, **messages[row["prompt_id"]]} for row in sampled]
    whole: list[Any] = list(replace(sampled, source=asked_as_is).recoded(reader))
    tokenizer = reader.tokenizer()
    answers = [without_thoughts(group, tokenizer) for group in whole]
    if prompts.rows[0]["split"] != "train":
        lessons = replace(lessons, keep="all", minimum_score=None)
    # What a served teacher wrote has the tokens of the student's model.
    in_tokens = {} if reader == run.teacher else {"tokens": dict(reader.identity)}
    key, scores = None, None
    if lessons.scored:
        shown = Rows(written(answers), {"answers": sampled.key, **in_tokens}, reader)
        scored = score(run, shown, f"teacher, {len(shown)} prompts")
        key, scores = scored.key, _scores(answers, scored)
    identity = {
        "code": 1,
        "sampled": sampled.key,
        "scored": key,
        "lessons": asdict(lessons),
        **in_tokens,
        **({"thoughts": "left out"} if not lessons.thoughts and thinks(whole) else {}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        learned = whole if lessons.thoughts else answers
        groups, counts = chosen(learned, scores, lessons)
        partial.shards().put(groups)
        return {"prompts": len(groups), **counts}

    what = f"chosen from {len(whole)} prompts' responses"
    return Rows.of(run.stage("lessons", what, identity, make))


def _asked(prompt: Any, request: str | None) -> Any:
    """The prompt with a request of ours, in what the teacher is shown of it."""
    shown = [name for name in ("messages", "teacher_messages") if name in prompt]
    return {**prompt, **{name: asked(prompt[name], request) for name in shown}}


def _scores(answers: Sequence[Group], scored: Rows) -> list[list[float | None]]:
    """The values `[group][response]`; None for an answer without a token, which was not scored."""
    values = {
        row["prompt_id"]: iter([response.get("score") for response in row["responses"]])
        for row in scored
    }
    return [
        [
            next(values[group["prompt_id"]]) if response["token_ids"] else None
            for response in group["responses"]
        ]
        for group in answers
    ]
