"""A row of any of the usual ranked formats as a conversation and its scored responses.

| shape | for example |
|---|---|
| a list of objects, each with a text and a score or rank | ours, UltraFeedback, Nectar |
| a list of texts, and a list of scores | RRHF's data |
| `chosen` and `rejected`, texts, conversations or transcripts | TRL, UltraFeedback binarized, HH |
| `response_0`, `response_1` and `better_response_id` | PKU-SafeRLHF |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.prompts.formats import conversation
from rankdistill.rank.preferences import as_group
from rankdistill.records import Message

LISTS = ("responses", "completions", "answers")
"""Columns with the responses; the first that a row has is read."""
TEXTS = ("text", "response", "output", "answer", "completion", "content")
"""Where a response has its text."""
SCORES = ("score", "fine-grained_score", "overall_score", "rating", "reward")
"""Where a response has its score, higher is better. UltraFeedback's mean of the aspects is read
before its overall score, which is 10 in rows whose critique says 1."""
WRITERS = ("source", "model", "model_name", "generator")
"""Where a response has the name of who wrote it."""
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def ranked_row(
    row: Mapping[str, Any], where: str, *, column: str | None = None, score: str | None = None
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The prompt of a row, and its responses: `text`, `score`, `source`, and what else they have.

    A `rank`, 0 or 1 being the best, becomes the score minus itself. A score that is no number
    becomes NaN: the rank stage sets such rows aside and counts them.

    Args:
        row: One row, its prompt as a prompt file has it, or a transcript of Human and Assistant.
        where: Names the row in an error, for example ``line 3 of 'ranked.jsonl'``.
        column: The column of the prompt; None finds it.
        score: Where a response has its score; None finds it in `SCORES`, else takes `rank`.

    Raises:
        UserError: no prompt, no responses, or a response without text or score.
    """
    if row.get("chosen") is not None and row.get("rejected") is not None:
        prompt = {"prompt": _told(row[column])} if column and column in row else {}
        sides = {name: _told(row[name]) for name in ("prompt", "chosen", "rejected") if name in row}
        group = as_group(sides | prompt, where)
        return group["messages"], [{**r, "source": "imported"} for r in group["responses"]]
    responses = _responses(row, where)
    return _prompt(row, where, column), [_response(given, where, score) for given in responses]


def _prompt(row: Mapping[str, Any], where: str, column: str | None) -> list[Message]:
    messages = conversation(row, where, column)
    if len(messages) == 1 and messages[0]["role"] == "user":
        told = _told(messages[0]["content"])
        return told if isinstance(told, list) else messages
    return messages


def _told(text: Any) -> Any:
    """A transcript as a conversation, its open last turn left out; anything else as it is."""
    parts = _TURN.split(text) if isinstance(text, str) else []
    if len(parts) < 3 or parts[0].strip() or parts[1] != "Human":
        return text
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        Message(role=roles[speaker], content=said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return turns[:-1] if not turns[-1]["content"] else turns


def _responses(row: Mapping[str, Any], where: str) -> Sequence[Any]:
    for name in LISTS:
        given = row.get(name)
        if given:
            return _with_values(given, row, where) if isinstance(given[0], str) else given
    if "better_response_id" in row and "response_0" in row and "response_1" in row:
        better = row["better_response_id"]
        return [{"text": row[f"response_{i}"], "score": float(i == better)} for i in (0, 1)]
    raise UserError(
        f"A ranked row needs one of {', '.join(LISTS)}, or `chosen` and `rejected`, but {where} "
        f"has {', '.join(sorted(map(str, row)))}."
    )


def _with_values(texts: Sequence[str], row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Responses that are texts, with their scores or ranks in a list beside them."""
    for name, key in (("scores", "score"), ("ranks", "rank"), ("rank", "rank")):
        values = row.get(name)
        if isinstance(values, Sequence) and len(values) == len(texts):
            return [{"text": t, key: v} for t, v in zip(texts, values, strict=True)]
    raise UserError(
        f"The responses in {where} are texts without a list `scores` or `ranks` of the same length."
    )


def _response(given: Any, where: str, score: str | None) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"A response in {where} is neither a text nor an object with one.")
    text = next((given[name] for name in TEXTS if isinstance(given.get(name), str)), None)
    if text is None:
        raise UserError(
            f"A response in {where} has no text: none of {', '.join(TEXTS)} is among its columns "
            f"({', '.join(map(str, given))})."
        )
    writer = next((given[name] for name in WRITERS if given.get(name)), "imported")
    return {**given, "text": text, "source": str(writer), "score": _score(given, where, score)}


def _score(given: Mapping[str, Any], where: str, name: str | None) -> float:
    if name is not None and name not in given:
        raise UserError(
            f"A response in {where} has no column '{name}' (rank.score_column): "
            f"{suggest(name, map(str, given))}"
        )
    found = next((key for key in ([name] if name else SCORES) if key in given), None)
    if found is not None:
        return _number(given[found])
    if "rank" in given:
        return -_number(given["rank"])
    raise UserError(
        f"A response in {where} has neither a score ({', '.join(SCORES)}) nor a `rank`: name the "
        f"column with its score as rank.score_column, one of {', '.join(map(str, given))}."
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
