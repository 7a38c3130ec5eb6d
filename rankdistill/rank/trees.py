"""Trees of messages, as OpenAssistant's: each row is a message that names the one it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from rankdistill.prompts.sources import Row

_COLUMNS = ("message_id", "parent_id", "role", "text")


def with_answers(rows: Iterable[Row]) -> Iterator[Row]:
    """Of trees each message with the ranked answers to it; other rows as they are.

    A message that was deleted, and an answer without a `rank`, are no answers.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return iter(())
    every = chain([first], rows)
    return _of_trees(every) if all(name in first[1] for name in _COLUMNS) else every


def _of_trees(rows: Iterable[Row]) -> Iterator[Row]:
    messages: dict[Any, Mapping[str, Any]] = {}
    answers: dict[Any, list[dict[str, Any]]] = {}
    places: dict[Any, str] = {}
    for where, row in rows:
        name = row["message_id"]
        messages[name], places[name] = row, where
        if row.get("rank") is not None and not row.get("deleted"):
            answer = {"text": row["text"], "rank": row["rank"]}
            answers.setdefault(row["parent_id"], []).append(answer)
    for name, responses in answers.items():
        # Prompters' replies to an answer are ranked too, and are no responses of an assistant.
        if name in messages and messages[name]["role"] != "assistant":
            yield places[name], {"messages": _path(name, messages), "responses": responses}


def _path(name: Any, messages: Mapping[Any, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation up to a message."""
    found: list[dict[str, Any]] = []
    while name in messages:
        row = messages[name]
        found.append({"role": row["role"], "content": row["text"]})
        name = row["parent_id"]
    return found[::-1]
