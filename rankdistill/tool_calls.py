"""Tools of a conversation, and calls of them in the text of a response.

A conversation has its tools with its first message, as the JSON of a list. A response calls one by
JSON between `<tool_call>` and `</tool_call>`: models of Qwen and Hermes write calls so; one that
data or a server hands over is brought to this form, and a chat template writes it in its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from rankdistill.rows import Message, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(r"\s*<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def with_calls(message: Mapping[str, Any]) -> str:
    """What an assistant's message says, its calls behind it.

    >>> with_calls({"content": "", "tool_calls": [call_of("add", '{"a": 2}')]})
    '<tool_call>\\n{"name": "add", "arguments": {"a": 2}}\\n</tool_call>'
    """
    calls = [_text_of(call) for call in message.get("tool_calls") or ()]
    content = message.get("content") or ""
    return "\n".join([content, *calls] if content.strip() or not calls else calls)


def calls_in(text: str) -> tuple[str, list[ToolCall]]:
    """What a response says beside its calls, and the calls; the text and none where one is odd."""
    calls: list[ToolCall] = []
    for found in _CALL.finditer(text):
        try:
            call = json.loads(found[1])
            calls.append(call_of(call["name"], call["arguments"]))
        except (ValueError, KeyError, RecursionError):
            return text, []
    return _CALL.sub("", text) if calls else text, calls


def call_of(name: Any, arguments: Any, id: Any = None) -> ToolCall:
    """A call as OpenAI has it, with its arguments as the text of a JSON object."""
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call = ToolCall(type="function", function={"name": str(name), "arguments": given})
    return call if id is None else {"id": str(id), **call}


def arguments_of(call: Mapping[str, Any]) -> Any:
    """The arguments of a call, as an object where they are the text of one."""
    given = call["function"]["arguments"]
    try:
        return json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        return given


def tools_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The tools of a conversation, as JSON; None where it has none."""
    return next((message["tools"] for message in messages if message.get("tools")), None)


def with_tools(messages: Sequence[Any], tools: str | None) -> list[Any]:
    """The conversation with these tools; as it is where there are none."""
    if tools is None or not messages:
        return list(messages)
    first, *others = ({k: v for k, v in m.items() if k != "tools"} for m in messages)
    return [{**first, "tools": tools}, *others]


def tool_names(tools: str | None) -> list[str]:
    """The names of the tools that a conversation has."""
    return [(tool.get("function") or tool)["name"] for tool in json.loads(tools or "[]")]


def as_told(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A conversation for a reader: role and content alone, with tools and calls among them."""
    tools = tools_of(messages)
    told = [Message(role=m["role"], content=with_calls(m)) for m in messages]
    return told if tools is None else [Message(role="tools", content=tools), *told]


def _text_of(call: Mapping[str, Any]) -> str:
    said = {"name": call["function"]["name"], "arguments": arguments_of(call)}
    return f"{OPEN}\n{json.dumps(said, ensure_ascii=False)}\n{CLOSE}"


def in_form(message: Mapping[str, Any], *, as_object: bool, empty: str | None) -> dict[str, Any]:
    """A message as a template takes it: without tools, which are the conversation's.

    Args:
        as_object: Whether the arguments of calls are objects, else the text of one.
        empty: The content of a message that is nothing but calls.
    """
    turn = {k: v for k, v in message.items() if k == "content" or (v is not None and k != "tools")}
    calls = turn.pop("tool_calls", None)
    if not calls:
        return turn
    turn["content"] = turn.get("content") or empty
    return {**turn, "tool_calls": [_called(call, as_object) for call in calls]}


def _called(call: Mapping[str, Any], as_object: bool) -> dict[str, Any]:
    arguments = arguments_of(call)
    if not as_object and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


FORMS = [
    partial(in_form, as_object=as_object, empty=empty)
    for as_object, empty in product((True, False), ("", None))
]
"""Of messages, as chat templates take them, in the order in which they are tried: transformers'
documents have arguments as an object, DeepSeek-R1's template as text; and where nothing is said
beside a call some want an empty content, others none."""
