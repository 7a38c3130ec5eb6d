"""What a response thought before it answered: in its text between `<think>` and `</think>`.

Models write thoughts in ways of their own; `rankdistill.models.thoughts` brings them to this form.
A verifier, a judge and a reader are shown the answer; a model is trained on all that was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

OPEN, CLOSE = "<think>", "</think>"
_THOUGHTS = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def answer_of(text: str) -> str:
    """What remains of a response without its thoughts.

    A chat template may have opened them, so that only their end is in the text; and a response that
    was cut while it thought has no answer.

    >>> answer_of("<think>2 + 2</think> It is 4.")
    'It is 4.'
    >>> answer_of("2 + 2</think>4"), answer_of("<think>2 +")
    ('4', '')
    """
    text = _THOUGHTS.sub("", text)
    text = text.rpartition(CLOSE)[2].lstrip() if CLOSE in text else text
    return text.partition(OPEN)[0].rstrip() if OPEN in text else text


def thought_of(text: str) -> str:
    """What a response thought, without the marks and the white space around it; "" where nothing.

    >>> thought_of("<think>2 + 2</think> It is 4."), thought_of("It is 4.")
    ('2 + 2', '')
    """
    if not has_thoughts(text):
        return ""
    thought = text.rpartition(CLOSE)[0] if CLOSE in text else text
    return thought.strip().removeprefix(OPEN).strip()


def has_thoughts(text: str) -> bool:
    """Whether a response thought, to the end or not."""
    return OPEN in text or CLOSE in text


def has_no_answer(text: str) -> bool:
    """Whether a response was cut, or ended, before its thought did."""
    return has_thoughts(text) and not answer_of(text)


def thinks(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a response of the groups has thoughts."""
    return any(has_thoughts(r["text"]) for group in groups for r in group["responses"])


def with_answers(group: Any) -> Any:
    """The group with its responses' answers as their texts; itself where none has thoughts."""
    if not thinks([group]):
        return group
    answers = [{**r, "text": answer_of(r["text"])} for r in group["responses"]]
    return {**group, "responses": answers}


def thought_counts(responses: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many responses thought, and how many of these have no answer; {} where none thought."""
    texts = [r["text"] for r in responses if has_thoughts(r["text"])]
    cut = sum(map(has_no_answer, texts))
    return {"thoughts": len(texts), "thoughts_without_answer": cut} if texts else {}
