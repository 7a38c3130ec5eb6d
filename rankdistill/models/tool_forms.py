"""The forms in which chat templates take calls of tools.

transformers' documents have arguments as an object, DeepSeek-R1's template as text; and where
nothing is said beside a call some want an empty content, others none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

from rankdistill.tool_calls import arguments_of


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
"""In the order in which they are tried."""
