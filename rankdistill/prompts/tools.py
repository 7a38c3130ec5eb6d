"""Tools and calls of them, in the ways in which data sets write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rankdistill.prompts.odd_rows import OddRow
from rankdistill.rows import ToolCall
from rankdistill.tool_calls import call_of

COLUMNS = ("tools", "functions")
"""Columns with the tools that an assistant may call."""


def given_tools(row: Mapping[str, Any], where: str) -> str | None:
    """The tools of a row, as the JSON of OpenAI's list; None where it gives none.

    Raises:
        OddRow: they are no list of objects with names.
    """
    for name in COLUMNS:
        given = row.get(name)
        if isinstance(given, str):
            given = _json(given) if given.strip("[]{} \n") not in ("", "null", "None") else None
        if not given:
            continue
        tools = given if isinstance(given, list | tuple) else [given]
        functions = [tool.get("function") or tool for tool in tools if isinstance(tool, Mapping)]
        if len(functions) < len(tools) or not all(
            isinstance(f, Mapping) and isinstance(f.get("name"), str) for f in functions
        ):
            raise OddRow(
                "unnamed_tool",
                f"`{name}` in {where} is no list of tools with a `name`: write them into the "
                "system message, and leave the column out.",
            )
        listed = [{"type": "function", "function": _filled(f)} for f in functions]
        return json.dumps(listed, ensure_ascii=False)
    return None


def given_calls(turn: Mapping[str, Any], said: str | None, where: str) -> list[ToolCall]:
    """The calls of an assistant's turn: `tool_calls`, `function_call`, or what it `said` as JSON.

    Raises:
        OddRow: a call has no name.
    """
    given = turn.get("tool_calls") or turn.get("function_call")
    given = _json(said or "") if given is None else given
    calls = []
    for call in given if isinstance(given, list | tuple) else [given]:
        call = call if isinstance(call, Mapping) else {}
        function = call.get("function") or call
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise OddRow("unnamed_tool", f"An assistant calls a tool without a name in {where}.")
        arguments = function.get("arguments", function.get("parameters"))
        calls.append(call_of(function["name"], _filled(arguments or {}), call.get("id")))
    return calls


def _json(text: str) -> Any:
    """What a text says as JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _filled(value: Any) -> Any:
    """Without the nulls that a table puts where objects differ."""
    if isinstance(value, Mapping):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list | tuple) else value
