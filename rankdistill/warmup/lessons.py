"""Which responses a warm-up learns from, and what of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.models import encode_answers, encode_prompt, encode_texts
from rankdistill.rows import Group, Message, Response
from rankdistill.thoughts import answer_of, thinks
from rankdistill.warmup.schema import Lessons

_WRITTEN = ("text", "token_ids", "finish_reason", "source")


def without_thoughts(group: Group, tokenizer: PreTrainedTokenizerBase) -> Group:
    """The group's answers, in its order; those that had thoughts are tokenised anew.

    A response that is nothing but thoughts keeps its place, with no token. Where the template opens
    a thought at the prompt's end, the answers stand behind as much of it as comes before an answer.
    """
    if not thinks([group]):
        return group
    whole = encode_prompt(tokenizer, group["messages"])
    texts = [answer_of(response["text"]) for response in group["responses"]]
    prompt, answers = encode_texts(tokenizer, group["messages"], [t for t in texts if t])
    same = len(prompt) == len(whole)  # then those without thoughts keep their tokens
    written = iter(answers)

    def answer(response: Any, text: str) -> Any:
        ids = next(written) if text else []
        if text == response["text"] and same:
            return response
        ids = ids if response["finish_reason"] == "stop" else ids[:-1]
        rest = {key: value for key, value in response.items() if key != "thought_tokens"}
        return {**rest, "text": text, "token_ids": ids}

    responses = [answer(r, text) for r, text in zip(group["responses"], texts, strict=True)]
    shorter = {} if same else {"prompt_tokens": len(prompt)}
    return {**group, **shorter, "responses": responses}  # type: ignore[typeddict-item]


def asked(messages: Sequence[Message], request: str | None) -> list[Message]:
    """The conversation with a request of ours at its end, for the teacher alone."""
    if request is None:
        return list(messages)
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n\n{request}"}]


def chosen(
    groups: Sequence[Group], scores: Sequence[Sequence[float | None]] | None, lessons: Lessons
) -> tuple[list[Group], dict[str, int]]:
    """The responses that are learned, and how many were left out and why.

    Args:
        groups: As they are to be learned.
        scores: `[group][response]`, None where a response has none; None without a scorer.
        lessons: What the warm-up asks for. A tie for the best goes to the earlier response.
    """
    names = ("written", "empty", "unscored", "low_score", "not_best", "learned")
    counts: dict[str, int] = dict.fromkeys(names, 0)
    kept = []
    for index, group in enumerate(groups):
        values = scores[index] if scores is not None else [0.0] * len(group["responses"])
        good = []
        for response, value in zip(group["responses"], values, strict=True):
            counts["written"] += 1
            if (reason := _refused(response, value, lessons)) is not None:
                counts[reason] += 1
            else:
                good.append((value, response))
        if lessons.keep == "best" and good:
            counts["not_best"] += len(good) - 1
            good = [max(good, key=lambda pair: pair[0])]  # type: ignore[arg-type,return-value]
        counts["learned"] += len(good)
        if good:
            kept.append({**group, "responses": [response for _, response in good]})
    return kept, counts


def from_data(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Group]:
    """The prompts that came with a response, with that response; of a ranked set the best one."""
    groups = []
    for row in rows:
        shorter = row.get("prompt_tokens")
        if row.get("responses"):
            best = min(row["responses"], key=lambda response: response.get("rank", 0))
            response = {key: best[key] for key in _WRITTEN}
        elif row.get("response"):
            text = row["response"]
            prompt, [ids] = encode_answers(tokenizer, row["messages"], [text])
            if len(prompt) < len(encode_prompt(tokenizer, row["messages"])):
                shorter = len(prompt)
            response = {"text": text, "token_ids": ids, "finish_reason": "stop", "source": "data"}
        else:
            continue
        names = ("prompt_id", "split", "messages", "teacher_messages")
        group = {key: row[key] for key in names if key in row}
        group["responses"] = [response]
        if shorter is not None:
            group["prompt_tokens"] = shorter
        groups.append(group)
    return groups


def _refused(response: Response, value: float | None, lessons: Lessons) -> str | None:
    if not response["token_ids"]:
        return "empty"
    if value is None:
        return "unscored"
    if lessons.minimum_score is not None and value < lessons.minimum_score:
        return "low_score"
    return None
