"""Any way in which data sets write a conversation, as its turns: who speaks, and what is said.

| written as | for example |
|---|---|
| text | a prompt, a response |
| a message, or a list of them, with any further fields | OpenAI, TRL |
| an object that holds one of these lists, `{messages: [..]}` | OpenAI's preference rows |
| `from` and `value` | ShareGPT |
| `input` and `output`, a turn of each | Capybara |
| an object of lists, `{role: [..], content: [..]}` | what `datasets` makes of a list of objects |
| a list of texts, the user's and the assistant's in turn | UltraChat's raw files |
| JSON, or Python, in the cell of a table | CSV |
| a transcript, `Human: .. Assistant: ..`, with or without words before it | HH |
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rankdistill.errors import suggest
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.tools import given_calls, given_tools
from rankdistill.rows import Message, ToolCall

ROLES = {
    "user": "user", "human": "user", "prompter": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "chatbot": "assistant", "ai": "assistant", "ai assistant": "assistant",
    "bing": "assistant", "bard": "assistant",
    "claude": "assistant", "system": "system", "developer": "developer", "tool": "tool",
    "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Roles as templates know them, by the words that data sets have for them, in small letters."""
CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns that hold a conversation; text in one is JSON, or a transcript."""
_SPEAKER = ("role", "from", "speaker")
_SAID = ("content", "value", "text", "parts")
_CALLING = ("function_call", "tool_call")
"""Roles of turns that are a call as JSON, as ShareGPT's rows have them."""
_SPEAKERS = {"Human": "user", "User": "user", "Assistant": "assistant"}

Turn = Mapping[str, Any]
"""A turn as the data has it; `message` reads it."""


def turns(value: Any, name: str, where: str, speaker: str = "user") -> list[Turn]:
    """The turns of a value of any of the shapes above; none where nothing is said.

    Args:
        value: Of one column, or of a part of it.
        name: Of the column, for errors.
        where: Names the row in an error, for example ``line 3 of 'prompts.jsonl'``.
        speaker: Whose words a text is.

    Raises:
        OddRow: it has none of the shapes.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _of_text(value, name, where, speaker)
    if isinstance(value, Mapping):
        if _is_message(value):
            return [value]
        if (held := _held(value)) is not None:
            return turns(held, name, where, speaker)
        if value and all(isinstance(part, list | tuple) for part in value.values()):
            return turns(rows_of_columns(value), name, where, speaker)
        raise OddRow("no_text", f"`{name}` in {where} is neither text nor a list of messages.")
    if not isinstance(value, Sequence):
        raise OddRow("no_text", f"`{name}` in {where} is neither text nor a list of messages.")
    if value and all(isinstance(text, str) for text in value):
        speakers = ("user", "assistant") if speaker == "user" else ("assistant", "user")
        return [{"role": speakers[i % 2], "content": text} for i, text in enumerate(value)]
    for turn in value:
        if not isinstance(turn, Mapping):
            raise OddRow(
                "no_text", f"A message of `{name}` in {where} is no object with role and content."
            )
    return [turn for given in value for turn in _exchange(given)]


def role_of(turn: Turn) -> str | None:
    """The role of a turn as templates know it; None where the data names none that is known."""
    return ROLES.get(str(_first(turn, _SPEAKER)).strip().lower())


def said_in(turn: Turn) -> str | None:
    """The text of a turn, its parts joined; None where it has none, or an image among them."""
    content = _first(turn, _SAID)
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, list | tuple) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if any(not isinstance(part, str) for part in parts):
            return None
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def message(turn: Turn, name: str, where: str) -> Message:
    """A turn as role and content, with tools, calls of them and which call it answers.

    Raises:
        OddRow: an unknown role, a call of a tool without a name, or a content that is no text.
    """
    role, content, speaker = role_of(turn), said_in(turn), _first(turn, _SPEAKER)
    calls: list[ToolCall] = []
    if has_calls(turn):
        calls = given_calls(turn, content, where)
        content = "" if content is None or speaker in _CALLING else content
        role = "assistant" if speaker is None else role
    if role is None and speaker is not None:
        raise OddRow(
            "unknown_role",
            f"'{speaker}' speaks in {where}, which is no known role: "
            f"{suggest(str(speaker), ROLES)}",
        )
    if role is None or content is None:
        has = ", ".join(f"'{key}'" for key in turn) or "nothing"
        raise OddRow(
            "no_text",
            f"A message of `{name}` in {where} lacks a role or text as its content (it has {has}).",
        )
    found = Message(role=role, content=encodable(content, name, where))
    if calls:
        found["tool_calls"] = calls
    if (tools := given_tools(turn, where)) is not None:
        found["tools"] = tools
    if role == "tool":
        for key in ("tool_call_id", "name"):
            if isinstance(turn.get(key), str):
                found[key] = turn[key]
    return found


def has_calls(turn: Turn) -> bool:
    """Whether an assistant calls a tool in a turn."""
    calls = turn.get("tool_calls") or turn.get("function_call")
    return bool(calls) or _first(turn, _SPEAKER) in _CALLING


def messages(found: Iterable[Turn], name: str, where: str) -> list[Message]:
    """All turns as messages; see `message`."""
    return [message(turn, name, where) for turn in found]


def encodable(text: str, name: str, where: str) -> str:
    """The text. OddRow: half a surrogate pair is in it, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OddRow(
            "unencodable", f"`{name}` in {where} has a character that is no Unicode text."
        ) from error
    return text


def before_response(found: Sequence[Turn]) -> list[Turn]:
    """The turns up to the last that is not the assistant's: what it said last is the response."""
    end = len(found)
    while end and role_of(found[end - 1]) == "assistant":
        end -= 1
    return list(found[:end])


def filled(value: Any) -> bool:
    """Whether a cell holds something: what is absent is null, NaN, blank, or has no parts."""
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and (not isinstance(value, list | tuple | Mapping) or bool(value))


def rows_of_columns(value: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """An object of lists as a list of objects, as long as the shortest list."""
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=False)]


def parsed(text: str) -> Any:
    """What a table's cell holds where it is a list or an object, as JSON or as Python writes it.

    None where it is neither.
    """
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:  # `DataFrame.to_csv` writes Python's form; literals alone are read, nothing runs
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, list | dict) else None


def written_messages(text: str) -> list[Turn] | None:
    """The messages that a table's cell holds, written as JSON or Python; None of other text."""
    content = parsed(text)
    if isinstance(content, Mapping):
        content = [content] if _is_message(content) else _held(content)
    if not isinstance(content, list) or not content:
        return None
    messages = all(isinstance(turn, Mapping) and _is_message(turn) for turn in content)
    return content if messages else None


def _exchange(turn: Turn) -> list[Turn]:
    """The turn, or the two that an object with `input` and `output` holds."""
    both = [turn.get("input"), turn.get("output")]
    if _is_message(turn) or not all(isinstance(text, str) for text in both):
        return [turn]
    return [{"role": r, "content": t} for r, t in zip(("user", "assistant"), both, strict=True)]


def _of_text(text: str, name: str, where: str, speaker: str) -> list[Turn]:
    if not text.strip():
        return []
    if (written := written_messages(text)) is not None:
        return turns(written, name, where, speaker)
    if name in CONVERSATIONS and isinstance(found := parsed(text), list) and found:
        return turns(found, name, where, speaker)
    if (told := _transcript(text, name)) is not None:
        return told
    if name in CONVERSATIONS:
        raise OddRow(
            "no_text",
            f"`{name}` in {where} is text but no JSON list of messages: put text into `prompt`.",
        )
    return [{"role": speaker, "content": text}]


def _transcript(text: str, name: str) -> list[Turn] | None:
    """The turns of a transcript; what stands before its first speaker is the system's.

    HH's form is one wherever it stands. Of `User:`, or of lines without a blank one between them,
    people also write about: one is where the assistant's turn is left open, or a conversation
    has to be.
    """
    for user, gap in (("Human", "\n\n"), ("User", "\n\n"), ("Human", "\n"), ("User", "\n")):
        before, *parts = re.split(rf"(?:^|{gap})({user}|Assistant): ?", text.rstrip(" "))
        speakers, said = parts[::2], [part.strip() for part in parts[1::2]]
        if not speakers or speakers[0] != user:
            continue
        preamble = before.strip().removeprefix("System:").removeprefix("system:").strip()
        if preamble and "Assistant" not in speakers:
            continue  # a text that mentions a human is no transcript
        if (user, gap) != ("Human", "\n\n"):
            is_open = speakers[-1] == "Assistant" and not said[-1]
            if not is_open and not (name in CONVERSATIONS and "Assistant" in speakers):
                continue
        system: list[Turn] = [{"role": "system", "content": preamble}] if preamble else []
        spoken = zip(speakers, said, strict=True)
        return system + [{"role": _SPEAKERS[who], "content": what} for who, what in spoken]
    return None


def _is_message(value: Mapping[str, Any]) -> bool:
    speaks = isinstance(_first(value, _SPEAKER), str)
    return speaks and any(key in value for key in (*_SAID, "tool_calls"))


def _held(value: Mapping[str, Any]) -> Sequence[Any] | None:
    """The list of messages inside an object that is none itself."""
    held = (value.get(name) for name in CONVERSATIONS)
    return next((found for found in held if isinstance(found, list | tuple)), None)


def _first(turn: Turn, names: Sequence[str]) -> Any:
    """What is under the first of the names that the turn has filled."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)
