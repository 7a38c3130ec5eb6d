"""The prompts stage, with prompts that the teacher writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rankdistill.models import Rows, encode_prompt
from rankdistill.prompts import prompt_id
from rankdistill.prompts.augment import REASONS, Filter, requests, written
from rankdistill.rows import Group, Message, Prompt
from rankdistill.schema import AugmentConfig
from rankdistill.stages.run import Run
from rankdistill.stages.sample import sample
from rankdistill.store import Partial
from rankdistill.warmup.lessons import answer_of, thinks


def augmented(run: Run, prompts: Rows) -> Rows:
    """The prompts with further train prompts that the teacher wrote, and how many were dropped."""
    settings, prompts = run.settings.prompts, prompts.held()
    rows = prompts.rows
    augment = settings.augment
    seeds = prompts.of_splits("train").rows
    if not seeds:
        return prompts
    asked = requests(seeds, augment.requests, augment.evolved, run.settings.seed)
    asking = [
        {"prompt_id": f"{request.kind}-{i}", "split": "train", "messages": request.messages}
        for i, request in enumerate(asked)
    ]
    key = {"prompts": prompts.key, "requests": asdict(augment), "code": 1}
    most = settings.max_prompt_tokens
    answered = sample(
        run, run.writing_teacher, Rows(asking, key), "teacher", 1, max_response_tokens=most
    )
    identity = {
        "code": 1,
        "prompts": prompts.key,
        "answers": answered.key,
        "augment": asdict(augment),
        "max_prompt_tokens": most,
        "tokenizer": dict(run.start.identity),
        **({"thoughts": "left out"} if thinks(answered) else {}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        tokenizer = run.start.tokenizer()

        def fits(prompt: Prompt) -> bool:
            return len(encode_prompt(tokenizer, prompt["messages"])) <= most

        more, counts = new_prompts(rows, answered.rows, augment, fits)
        partial.shards().put([*rows, *more])
        splits = ("train", "validation", "heldout")
        held = {s: sum(r["split"] == s for r in [*rows, *more]) for s in splits}
        return {"asked": len(asking), "kept": len(more), **counts, **held}

    what = f"{len(asking)} more by the teacher, from {len(seeds)}"
    return Rows.of(run.stage("prompts", what, identity, make))


def new_prompts(
    rows: Sequence[Any], answers: Sequence[Any], augment: AugmentConfig, fits: Any
) -> tuple[list[Prompt], dict[str, int]]:
    """The new prompts in the order of the answers, and how many were dropped by reason.

    Args:
        rows: Prompts of all splits.
        answers: Groups of one response, whose ids are ``kind-number``.
        augment: Of the settings.
        fits: Prompt -> whether it is short enough for the student.
    """
    counts: dict[str, int] = dict.fromkeys(REASONS, 0)
    deciding = Filter(
        rows,
        rouge_l=augment.rouge_l,
        least_words=augment.least_words,
        most_words=augment.most_words,
    )
    kept: list[Prompt] = []
    for answer in answers:
        text = written(answer_of(answer["responses"][0]["text"]))
        messages = [Message(role="user", content=text)]
        prompt = Prompt(prompt_id=prompt_id(messages), split="train", messages=messages)
        prompt["origin"] = answer["prompt_id"].partition("-")[0]
        if _unfinished(answer, text):
            reason = "cut"
        else:
            reason = deciding.refuses(text) if fits(prompt) else "too_long"
        if reason is None:
            kept.append(prompt)
        else:
            counts[reason] += 1
    return kept, counts


def _unfinished(answer: Group, text: str) -> bool:
    """Whether the response was cut inside the new prompt."""
    response = answer["responses"][0]
    return response["finish_reason"] == "length" and response["text"].rstrip(' "”').endswith(text)
