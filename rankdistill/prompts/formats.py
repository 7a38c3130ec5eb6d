"""A row of any of the usual formats as a conversation that ends before the response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.records import Message

COLUMNS = ("messages", "prompt", "conversations", "instruction")
"""The columns that hold a prompt, the first that a row has is read."""
RESPONSES = ("response", "completion", "output", "answer")
"""The columns that hold the response to a prompt that is text, the first that a row has is read."""
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "system": "system",
}  # fmt: skip


def conversation(row: Mapping[str, Any], where: str, column: str | None = None) -> list[Message]:
    """The messages of a row up to where the response begins; empty where no text is.

    Args:
        row: One row with one of `COLUMNS`, or `column`.
        where: Names the row in an error, for example ``line 3 of 'prompts.jsonl'``.
        column: The column to read, whatever it is called.

    Raises:
        UserError: no such column, or it holds neither text nor a conversation.
    """
    name = _column(row, where, column)
    value = row[name]
    if name == "instruction" and column is None:
        value = _alpaca(value, row.get("input"))
    if name in ("messages", "conversations") and isinstance(value, str):
        value = _parsed(value, name, where)
    if value is None:
        return []
    if isinstance(value, str):
        return [Message(role="user", content=value)] if value.strip() else []
    if not isinstance(value, list):
        raise UserError(f"`{name}` in {where} is neither text nor a list of messages.")
    messages = [_message(message, name, where) for message in _without_response(value)]
    return messages if messages and messages[-1]["content"].strip() else []


def response_in(
    row: Mapping[str, Any], column: str | None = None, response_column: str | None = None
) -> str | None:
    """What the assistant answers at the end of a row's prompt; None where nothing is.

    Args:
        row: One that `conversation` reads.
        column: As there.
        response_column: The column that holds the response, instead of one of `RESPONSES`.
    """
    if response_column is None:
        name = column or next((name for name in COLUMNS if name in row), None)
        value = row.get(name) if name else None
        if name in ("messages", "conversations") and isinstance(value, str) and value.strip():
            value = json.loads(value)  # `conversation` has read it
        if isinstance(value, list):
            turns = value[len(_without_response(value)) :]
            text = turns[0].get("content", turns[0].get("value")) if turns else None
            if text:
                return text if isinstance(text, str) and text.strip() else None
        response_column = next((name for name in RESPONSES if name in row), None)
    text = row.get(response_column) if response_column else None
    return text if isinstance(text, str) and text.strip() else None


def _column(row: Mapping[str, Any], where: str, column: str | None) -> str:
    wanted = (column,) if column else COLUMNS
    for name in wanted:
        if name in row:
            return name
    has = ", ".join(f"'{name}'" for name in row) or "none at all"
    if column:
        raise UserError(f"There is no column '{column}' in {where}; its columns are {has}.")
    raise UserError(
        f"There is no prompt in {where}: none of {', '.join(COLUMNS)} is among its columns "
        f"({has}); name the right one as prompts.column."
    )


def _alpaca(instruction: Any, context: Any) -> Any:
    if isinstance(instruction, str) and isinstance(context, str) and context.strip():
        return f"{instruction}\n\n{context}"
    return instruction


def _parsed(text: str, name: str, where: str) -> Any:
    """A conversation in a table cell, where it can only be JSON text."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(
            f"`{name}` in {where} is text but no JSON list of messages: put text into `prompt`."
        ) from error


def _without_response(turns: list[Any]) -> list[Any]:
    """The turns up to the last that isn't the assistant's: what it said last is the response."""
    end = len(turns)
    while end and isinstance(turns[end - 1], Mapping) and _role(turns[end - 1]) == "assistant":
        end -= 1
    return turns[:end]


def _role(turn: Mapping[str, Any]) -> Any:
    if "role" in turn:
        return turn["role"]
    return _SHAREGPT_ROLES.get(str(turn.get("from")).lower())


def _message(turn: Any, name: str, where: str) -> Message:
    """One turn, as role and content or as ShareGPT's from and value."""
    if not isinstance(turn, Mapping):
        raise UserError(f"A message of `{name}` in {where} is no object with role and content.")
    role, content = _role(turn), turn.get("content", turn.get("value"))
    if role is None and "from" in turn:
        speaker = str(turn["from"])
        raise UserError(
            f"'{speaker}' speaks in {where}, which is no known role: "
            f"{suggest(speaker, _SHAREGPT_ROLES)}"
        )
    if not isinstance(role, str) or not isinstance(content, str):
        has = ", ".join(f"'{key}'" for key in turn) or "nothing"
        raise UserError(
            f"A message of `{name}` in {where} lacks a role or text as its content (it has {has})."
        )
    return Message(role=role, content=content)
