"""A row of any of the usual formats as a conversation that ends before the response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.tools import given_tools
from rankdistill.prompts.turns import (
    CONVERSATIONS,
    Turn,
    before_response,
    encodable,
    filled,
    message,
    messages,
    parsed,
    role_of,
    turns,
    written_messages,
)
from rankdistill.rows import Message
from rankdistill.tool_calls import tools_of, with_calls, with_tools

COLUMNS = (
    "messages", "prompt", "conversations", "conversation", "instruction", "question", "query",
    "input",
)  # fmt: skip
"""The columns that hold a prompt, the first that is filled is read."""
RESPONSES = ("response", "completion", "output", "answer")
"""The columns that hold the response to a prompt that is text, the first that is filled is read."""
SYSTEM = ("system", "system_prompt")
"""The columns that hold what the system says before a prompt that does not say it."""
_PASSAGES = ("input", "context")
"""What Alpaca and Dolly put behind an instruction."""
_OF_THE_PROMPT = (
    "context", "history", "images", "image", "videos", "audios", "audio", "chat_template_kwargs",
)  # fmt: skip
"""Columns that belong to a prompt; a row that fills one which is not read is told about."""
_OF_A_TURN = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with what was thought before it; likewise."""


def conversation(row: Mapping[str, Any], where: str, column: str | None = None) -> list[Message]:
    """The messages of a row up to where the response begins; empty where no text is.

    Args:
        row: One row with one of `COLUMNS`, or `column`.
        where: Names the row in an error, for example ``line 3 of 'prompts.jsonl'``.
        column: The column to read, whatever it is called; `outer.inner` reads inside an object.

    Raises:
        OddRow: no such column, it holds neither text nor a conversation, or tools that are none.
    """
    name, found = row_turns(row, where, column)
    read = messages(before_response(found), name, where)
    if not read or not (read[-1]["content"].strip() or read[-1]["role"] == "tool"):
        return []
    return with_tools(read, tools_in(row, where, column) or tools_of(read))


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
        found = row_turns(row, "", column)[1]
        said = found[len(before_response(found)) :]
        if said and (text := _said(said[0])) is not None:
            return text or None
        response_column = next((name for name in RESPONSES if filled(row.get(name))), None)
    return response_text(row.get(response_column), response_column) if response_column else None


def response_text(value: Any, name: str, where: str = "") -> str | None:
    """The text of a response: one, or what the assistant says last in a message or conversation.

    A text is taken as it is, unless it is a conversation in the cell of a table. None where nothing
    is said.
    """
    turned = written_messages(value) if isinstance(value, str) else None
    if isinstance(value, str) and turned is None:
        return value if value.strip() else None
    try:
        messages = turns(turned or value, name, where, speaker="assistant")
    except OddRow:
        return None
    if not messages or role_of(messages[-1]) != "assistant":
        return value if isinstance(value, str) else None
    return _said(messages[-1]) or None


def row_turns(
    row: Mapping[str, Any], where: str, column: str | None = None
) -> tuple[str, list[Turn]]:
    """The column that holds a row's prompt, and its turns, the response among them if it is there.

    Raises:
        OddRow: as `conversation`.
    """
    name = _column(row, where, column)
    value = value_at(row, name)
    if name == "instruction" and isinstance(value, str):
        value = "\n\n".join([value, *_passages(row)])
    messages = turns(value, name, where)
    if (history := _earlier(row, name)) is not None:
        messages = [*_history(history, where), *messages]
    system = next((row[key] for key in SYSTEM if _is_text(row.get(key)) and key != name), None)
    if system is not None and messages and role_of(messages[0]) not in ("system", "developer"):
        messages = [{"role": "system", "content": encodable(system, "system", where)}, *messages]
    return name, messages


def tools_in(row: Mapping[str, Any], where: str, column: str | None = None) -> str | None:
    """The tools that a row gives the assistant, or the object with its prompt does, as JSON."""
    value = value_at(row, column or next((n for n in COLUMNS if filled(row.get(n))), ""))
    inside = given_tools(value, where) if isinstance(value, Mapping) else None
    return inside or given_tools(row, where)


def unread_columns(row: Mapping[str, Any], column: str | None = None) -> list[str]:
    """What of a row belongs to its prompt or its answers, is filled, and is not read."""
    name = column or next((n for n in COLUMNS if filled(row.get(n))), None)
    read = {str(name).partition(".")[0]}
    if name == "instruction":
        read |= set(_PASSAGES)
    if _earlier(row, str(name)) is not None:
        read.add("history")
    unread = [key for key in _OF_THE_PROMPT if key not in read and filled(row.get(key))]
    for key in (name, "chosen", "rejected"):
        value = row.get(key) if key else None
        turned = [t for t in value if isinstance(t, Mapping)] if isinstance(value, list) else []
        unread += [f"{key}.{field}" for field in _OF_A_TURN if any(t.get(field) for t in turned)]
        if any(t.get("weight") == 0 for t in turned):  # a turn that is not to be learned
            unread.append(f"{key}.weight")
    return unread


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or inside an object, of `outer.inner`; None where there is none."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return value_at(value, inner) if isinstance(value, Mapping) else None


def has_column(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has the column, or the object of `outer.inner`, filled or not."""
    return name in row or ("." in name and name.partition(".")[0] in row)


def _column(row: Mapping[str, Any], where: str, column: str | None) -> str:
    has = ", ".join(f"'{name}'" for name in row) or "none at all"
    if column is not None:
        if has_column(row, column):
            return column
        raise OddRow(
            "no_prompt", f"There is no column '{column}' in {where}; its columns are {has}."
        )
    there = [name for name in COLUMNS if name in row]
    if there:
        return next((name for name in there if filled(row[name])), there[0])
    raise OddRow(
        "no_prompt",
        f"There is no prompt in {where}: none of {', '.join(COLUMNS)} is among its columns "
        f"({has}); name the right one as prompts.column.",
    )


def _passages(row: Mapping[str, Any]) -> list[str]:
    found = (row.get(name) for name in _PASSAGES)
    return [text for text in found if isinstance(text, str) and text.strip()][:1]


def _earlier(row: Mapping[str, Any], name: str) -> list[Any] | tuple[Any, ...] | None:
    """The list of earlier turns beside a prompt that does not hold them, also one in a cell."""
    history = row.get("history")
    history = parsed(history) if isinstance(history, str) else history
    beside = name not in CONVERSATIONS and name != "history"
    return history if beside and isinstance(history, list | tuple) else None


def _history(history: Any, where: str) -> list[Turn]:
    """Earlier turns: pairs of what was asked and answered, or a conversation."""
    found: list[Turn] = []
    for part in history:
        pair = isinstance(part, list | tuple) and len(part) == 2
        if not pair:
            return turns(history, "history", where)
        found += turns(list(part), "history", where)
    return found


def _said(turn: Turn) -> str | None:
    """What an assistant's turn says, "" where that is blank; None where it says nothing."""
    try:
        text = with_calls(message(turn, "", ""))
    except OddRow:
        return None
    return text if text.strip() else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
