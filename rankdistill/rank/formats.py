"""A row of any of the usual ranked formats as a conversation and its scored responses.

| shape | for example |
|---|---|
| a list of objects, each with a text and a score or rank | ours, UltraFeedback, Nectar |
| a list of texts, messages or conversations, and a list of scores or ranks | RRHF's data, TRL |
| an object of lists | what `datasets` makes of a list of objects |
| two responses, the better one named by its column or by a label | see `preferences.KNOWN` |
| one response, and a label that says whether it is good, or a score | KTO's rows, HelpSteer2 |
| two responses, each with a score in a column of its own | WebGPT |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

from rankdistill.errors import UserError, suggest
from rankdistill.prompts.formats import conversation, response_text
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.sources import Row
from rankdistill.prompts.tools import given_tools
from rankdistill.prompts.turns import (
    encodable,
    filled,
    has_calls,
    message,
    parsed,
    rows_of_columns,
)
from rankdistill.rank.preferences import (
    KNOWN,
    PairColumns,
    is_open,
    number,
    pair_of,
    unpaired,
)
from rankdistill.rows import Message
from rankdistill.tool_calls import with_tools

LISTS = ("responses", "completions", "answers", "generations", "candidates")
"""Columns with the responses; the first that a row has filled is read."""
TEXTS = ("text", "response", "output", "answer", "completion", "content")
"""Where a response has its text."""
SCORES = ("score", "fine-grained_score", "overall_score", "rating", "reward")
"""Where a response has its score, higher is better. UltraFeedback's mean of the aspects is read
before its overall score, which is 10 in rows whose critique says 1."""
VALUES = (
    ("scores", "score"), ("ratings", "score"), ("rating", "score"), ("rewards", "score"),
    ("ranks", "rank"), ("rank", "rank"),
)  # fmt: skip
"""Lists beside responses that are texts, and what their values are."""
WRITERS = ("source", "model", "model_name", "generator")
"""Where a response has the name of who wrote it."""


def ranked_row(
    row: Mapping[str, Any],
    where: str,
    *,
    column: str | None = None,
    score: str | None = None,
    columns: PairColumns | None = None,
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The prompt of a row, and its responses: `text`, `score`, `source`, and what else they have.

    A `rank`, 0 or 1 being the best, becomes the score minus itself. A score that is no number
    becomes NaN: the rank stage sets such rows aside and counts them.

    Args:
        row: One row, its prompt as a prompt file has it, or a transcript of Human and Assistant.
        where: Names the row in an error, for example ``line 3 of 'ranked.jsonl'``.
        column: The column of the prompt; None finds it.
        score: Where a response has its score, or a row with one response; None finds it in
            `SCORES`, else takes `rank`.
        columns: Of the two responses of a pair; None finds them.

    Raises:
        OddRow: no prompt, no responses, or a response without text or score.
    """
    if columns is not None and not columns.of(row):
        raise OddRow("not_ranked", _lacks(row, where, columns))
    column = prompt_column(row, column, columns)
    if (pair := columns or _known_pair(row)) is not None:
        return pair_of(row, where, pair, column)
    messages = conversation(row, where, column)
    if not _is_listed(row) and (one := unpaired(row, where, score, column)) is not None:
        responses = [one]
    else:
        responses = [_response(given, where, score) for given in _responses(row, where, score)]
    if is_open(row, where, column):  # "Assistant:" and " Yes": no space is meant
        for response in responses:
            if not response.get("token_ids"):
                response["text"] = response["text"].strip()
    return messages, responses


def as_group(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row as a `Group`: `messages` and `responses`; one that is a group passes as it is.

    Unlike in TRL, a prompt that is a text goes through the chat template as well.

    Args:
        where: Names the row in an error, for example ``Row 3``.

    Raises:
        UserError: neither a group nor a ranked row, see `ranked_row`.
    """
    responses = row.get("responses")
    ready = isinstance(responses, list) and responses and isinstance(responses[0], Mapping)
    if row.get("messages") and ready:
        tools, turns = given_tools(row, where), row["messages"]
        if tools is None and not any(map(has_calls, turns)):
            return row
        read = [message(turn, "messages", where) for turn in turns]
        return {**row, "messages": with_tools(read, tools)}
    pair = _known_pair(row)
    if not (pair and pair.of(row)) and not _is_listed(row) and not _scored_answers(row):
        raise OddRow(
            "not_ranked",
            f"{where} has the columns {', '.join(row)}: the trainer needs filled `messages` "
            "and `responses`, or `prompt`, `chosen` and `rejected`.",
        )
    messages, found = ranked_row(row, where)
    return {**row, "messages": messages, "responses": found}


def prompt_column(
    row: Mapping[str, Any], column: str | None, columns: PairColumns | None
) -> str | None:
    """The column of a ranked row's prompt; None where that is one of a prompt file's.

    Args:
        column: The one that a person names.
        columns: Of a pair, as a person names them.
    """
    if column is not None:
        return column
    if (pair := columns or _known_pair(row)) is not None:
        return pair.prompt
    # WebGPT's question is an object with its text inside.
    question = row.get("question")
    inside = isinstance(question, Mapping) and isinstance(question.get("full_text"), str)
    return "question.full_text" if inside else None


def _known_pair(row: Mapping[str, Any]) -> PairColumns | None:
    """The columns of a row that is a pair of a known form."""
    if _is_listed(row):
        return None
    known = next((known for known in KNOWN if known.of(row)), None)
    if known is None and "chosen" in row and "rejected" in row:
        return KNOWN[0]  # which says that a side is empty
    return known


def _is_listed(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) for name in LISTS)


def _lacks(row: Mapping[str, Any], where: str, columns: PairColumns) -> str:
    names = [columns.chosen, columns.rejected, *([columns.label] if columns.label else [])]
    return (
        f"{where} does not fill {', '.join(f'`{name}`' for name in names)} (rank.columns): it has "
        f"{', '.join(sorted(map(str, row)))}."
    )


def _responses(row: Mapping[str, Any], where: str, score: str | None) -> Sequence[Any]:
    for name in LISTS:
        given = row.get(name)
        if isinstance(given, str):
            given = parsed(given)
        if isinstance(given, Mapping):
            lists = all(isinstance(part, list | tuple) for part in given.values())
            given = rows_of_columns(given) if lists else None
        if given and isinstance(given, list | tuple):
            objects = [part for part in given if isinstance(part, Mapping)]
            if score is not None and objects:
                return given
            if any(key in part for part in objects for key in (*SCORES, "rank")):
                return given
            if (found := _with_values(given, row)) is not None:
                return found
            return given if objects or not isinstance(given[0], str | list) else _no_values(where)
    if found := _scored_answers(row):
        return found
    raise OddRow(
        "not_ranked",
        f"A ranked row needs one of {', '.join(LISTS)}, or `chosen` and `rejected` (rank.columns "
        f"names others), but {where} has {', '.join(sorted(map(str, row)))}.",
    )


def _scored_answers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """WebGPT's two answers, each with its score in a column of its own; none of another row."""
    pair = [(f"answer_{i}", f"score_{i}") for i in (0, 1)]
    if not all(row.get(name) is not None for names in pair for name in names):
        return []
    return [{"text": row[text], "score": row[value]} for text, value in pair]


def _with_values(given: Sequence[Any], row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Responses with their scores or ranks in a list beside them; None where there is none."""
    for name, key in VALUES:
        values = row.get(name)
        if isinstance(values, str):
            values = parsed(values)
        if isinstance(values, list | tuple) and len(values) == len(given):
            return [
                {**(part if isinstance(part, Mapping) else {"text": part}), key: value}
                for part, value in zip(given, values, strict=True)
            ]
    return None


def _no_values(where: str) -> NoReturn:
    raise OddRow(
        "not_ranked",
        f"The responses in {where} are texts without a list `scores` or `ranks` of the same "
        "length.",
    )


def _response(given: Any, where: str, score: str | None) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise OddRow("no_text", f"A response in {where} is neither a text nor an object with one.")
    text = _text(given)
    if text is None:
        raise OddRow(
            "no_text",
            f"A response in {where} has no text: none of {', '.join(TEXTS)} holds any (it has "
            f"{', '.join(map(str, given))}).",
        )
    encodable(text, "text", where)
    writer = next((given[name] for name in WRITERS if given.get(name)), "imported")
    return {**given, "text": text, "source": str(writer), "score": _score(given, where, score)}


def _text(given: Mapping[str, Any]) -> str | None:
    """What a response says; the text of one that brings token ids is what they decode to."""
    if has_calls(given):
        return response_text([{"role": "assistant", **given}], "responses")
    for name in (*TEXTS, "message"):
        value = given.get(name)
        if not filled(value) or not isinstance(value, str | list | tuple | Mapping):
            continue
        if isinstance(value, str) and given.get("token_ids"):
            return value
        if name == "content" and not isinstance(value, str):  # in parts
            value = {"role": "assistant", "content": value}
        return response_text(value, name)
    return "" if any(isinstance(given.get(name), str) for name in TEXTS) else None


def _score(given: Mapping[str, Any], where: str, name: str | None) -> float:
    if name is not None and name not in given:
        raise UserError(
            f"A response in {where} has no column '{name}' (rank.score_column): "
            f"{suggest(name, map(str, given))}"
        )
    if name is not None:
        return number(given[name])
    keys = [key for key in SCORES if key in given]
    found = next((key for key in keys if given[key] is not None), None)
    if found is not None:
        return number(given[found])
    if given.get("rank") is not None:
        return -number(given["rank"])
    if keys or "rank" in given:  # there, and null: as a score that is no number
        return math.nan
    raise OddRow(
        "not_ranked",
        f"A response in {where} has neither a score ({', '.join(SCORES)}) nor a `rank`: name the "
        f"column with its score as rank.score_column, one of {', '.join(map(str, given))}.",
    )


_COLUMNS = ("message_id", "parent_id", "role", "text")


def with_answers(rows: Iterable[Row]) -> Iterator[Row]:
    """Of trees as OpenAssistant's, whose rows are messages that name the one they answer, each
    message with the ranked answers to it; other rows as they are.

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
