"""TRL's preference rows as groups of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.errors import UserError


def as_group(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row as a `Group`: `messages` and `responses`.

    Such rows pass. A preference row {prompt, chosen, rejected} becomes two responses with the
    scores 1 and 0. Its prompt is a text, which becomes the user's message, or a conversation;
    `chosen` and `rejected` are texts or conversations that end with the response, and repeat the
    prompt or not. Without `prompt` they must repeat it. Unlike in TRL, a prompt that is a text
    goes through the chat template as well.

    Args:
        where: Names the row in an error, for example ``Row 3``.

    Raises:
        UserError: neither of the two, or without text, or the responses answer different prompts.
    """
    if row.get("responses") and row.get("messages"):
        return row
    if row.get("chosen") is None or row.get("rejected") is None:
        raise UserError(
            f"{where} has the columns {', '.join(row)}: the trainer needs filled `messages` "
            "and `responses`, or `prompt`, `chosen` and `rejected`."
        )
    prompt = _conversation(row.get("prompt") or [], "user")
    contexts, responses = [], []
    for column, score in (("chosen", 1.0), ("rejected", 0.0)):
        turns = _conversation(row[column], "assistant")
        if not turns:
            raise UserError(f"{where} has an empty `{column}`: give it a response.")
        contexts.append(_joined(prompt, turns[:-1]))
        responses.append({"text": turns[-1]["content"], "score": score})
    if contexts[0] != contexts[1] or not contexts[0]:
        raise UserError(
            f"{where} has `chosen` and `rejected` without a common prompt: give the `prompt`, "
            "or two conversations that differ in the last message only."
        )
    return {**row, "messages": contexts[0], "responses": responses}


def _conversation(value: Any, role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _joined(prompt: list[dict[str, Any]], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompt and the turns before the response, which may begin with the prompt."""
    return turns if turns[: len(prompt)] == prompt else prompt + turns
