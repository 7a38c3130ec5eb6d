"""Two responses of which one is better, in the columns and labels of public data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.prompts.formats import (
    has_column,
    response_in,
    response_text,
    row_turns,
    tools_in,
    value_at,
)
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.turns import (
    Turn,
    before_response,
    encodable,
    has_calls,
    messages,
    role_of,
    said_in,
    turns,
)
from rankdistill.rows import Message
from rankdistill.tool_calls import tools_of, with_calls, with_tools


@dataclass(frozen=True)
class PairColumns:
    """Where a row has its two responses, and how it says which is better.

    Args:
        chosen: Column of the better response, or of the first where there is a label.
        rejected: Column of the other.
        label: Column that says which is better. None: `chosen` is.
        chosen_if: The label's value where `chosen` is better; `negative` and `positive` are signs
            of a number.
        rejected_if: The label's value where `rejected` is; None: every other value. With both, any
            other value is a tie.
        prompt: Column of the prompt; None: as of every row.
    """

    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str | None = None
    chosen_if: Any = None
    rejected_if: Any = None
    prompt: str | None = None

    def of(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has both responses and the label."""
        names = (self.chosen, self.rejected, *([self.label] if self.label else []))
        return all(value_at(row, name) is not None for name in names)


KNOWN = (
    PairColumns(),
    PairColumns("response_0", "response_1", "better_response_id", 0, 1),
    PairColumns("response1", "response2", "overall_preference", "negative", "positive", "context"),
    PairColumns("human_ref_A", "human_ref_B", "labels", 1, 0, "history"),
    PairColumns("output_1", "output_2", "label", 1, 2, "input"),
    PairColumns("response_A", "response_B", "label", "A>B", "B>A"),
    PairColumns("conversation_a", "conversation_b", "winner", "model_a", "model_b"),
    PairColumns("preferred_output", "non_preferred_output", prompt="input"),
    PairColumns("chosen_response", "rejected_response"),
    PairColumns("messages", "rejected_messages"),
    PairColumns("messages", "rejected_response"),
    PairColumns("response", "rejected_response"),
    PairColumns("response_j", "response_k"),
)
"""TRL and most others, PKU-SafeRLHF, HelpSteer3, SHP, LLMBar, JudgeBench, Chatbot Arena, OpenAI,
axolotl, ms-swift (three forms), Stack Exchange."""

LABELS = ("label", "kto_tag")
"""Columns that say whether a row's one response is good: TRL's, and LLaMA-Factory's."""
SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"), ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)  # fmt: skip
"""Columns with the scores of a pair; the first two that a row has filled are read."""


def pair_of(
    row: Mapping[str, Any], where: str, columns: PairColumns, column: str | None
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The prompt of a row and its two responses, or more where a side is a list of texts.

    A side is a text, a message, a transcript, or a conversation that ends with the response. One
    that begins with a user's or the system's turn has the prompt in it, and stands for itself; one
    that begins with the assistant's goes on from the row's prompt.

    Args:
        column: Of the prompt; None finds it.

    Raises:
        OddRow: a side without a response, two different prompts, no prompt, or scores that say the
            opposite of the labels.
    """
    scores = _scores(row, where, columns)
    contexts: list[list[Message]] = []
    responses: list[dict[str, Any]] = []
    prompt, is_open = _prompt(row, where, column, columns.chosen)
    for name, score in zip((columns.chosen, columns.rejected), scores, strict=True):
        for context, text in _sides(value_at(row, name), name, where, prompt):
            contexts.append(context)
            text = text.strip() if is_open else text  # "Assistant:" and " Yes": no space is meant
            responses.append({"text": text, "score": score, "source": "imported"})
    first = contexts[0]
    if not first or any(_told(context) != _told(first) for context in contexts):
        raise OddRow(
            "no_common_prompt",
            f"{where} has `{columns.chosen}` and `{columns.rejected}` without a common prompt: "
            "give the `prompt`, or two conversations that differ in the last message only.",
        )
    return with_tools(first, tools_in(row, where, column) or tools_of(first)), responses


def unpaired(
    row: Mapping[str, Any], where: str, score: str | None = None, column: str | None = None
) -> dict[str, Any] | None:
    """The one response of a row with its score: KTO's label, as 1 or 0, or a column of its own.
    The response is in a column, or ends the row's conversation.

    Rows of one prompt make one group. None for a row of another form.

    Args:
        score: The column of the score (`rank.score_column`), as HelpSteer2's `helpfulness`.
        column: Of the prompt; None finds it.
    """
    label = next((row[name] for name in LABELS if row.get(name) is not None), None)
    good, bad = _says(label, True), _says(label, False)
    value = float(good)
    if score is not None and row.get(score) is not None:
        good, value = True, _number(row[score])
    if not (good or bad):
        return None
    name = next((n for n in ("completion", "response", "output") if row.get(n) is not None), None)
    text = response_text(row[name], name, where) if name else response_in(row, column)
    if name is None and text is None:
        return None
    if text is None:
        raise OddRow("empty_response", f"{where} has an empty `{name}`: give it a response.")
    encodable(text, name or "messages", where)
    return {"text": text, "score": value, "source": "imported", "unpaired": True}


def columns_of(given: Any) -> PairColumns | None:
    """`rank.columns` of the configuration.

    Raises:
        UserError: it is no mapping of the names that there are, or a label says nothing.
    """
    if given is None:
        return None
    names = [field.name for field in fields(PairColumns)]
    if not isinstance(given, Mapping):
        raise UserError(
            f"rank.columns is {given}: give a column for each name, as in "
            "'rank.columns={chosen: better, rejected: worse}'."
        )
    for name in given:
        if name not in names:
            raise UserError(f"rank.columns has no name '{name}': {suggest(str(name), names)}")
    columns = PairColumns(**given)
    if columns.label is not None and columns.chosen_if is None:
        raise UserError(
            f"rank.columns names the label '{columns.label}' and not which of its values says that "
            "`chosen` is better: add chosen_if, a value, or negative or positive for numbers."
        )
    return columns


def is_open(row: Mapping[str, Any], where: str, column: str | None) -> bool:
    """Whether a row's prompt ends in an open turn of the assistant, which the response fills."""
    return _prompt(row, where, column)[1]


def _prompt(
    row: Mapping[str, Any], where: str, column: str | None, chosen: str | None = None
) -> tuple[list[Turn], bool]:
    """The turns of the row's own prompt, none where it has none; and whether it is open.

    Args:
        chosen: The column of the better response; where that is the prompt's, its end is one.
    """
    try:
        name, messages = row_turns(row, where, column)
    except OddRow as odd:
        if odd.reason != "no_prompt" or (column is not None and not has_column(row, column)):
            raise
        return [], False
    if name == chosen:
        return before_response(messages), False
    closed = list(messages)
    while closed and role_of(closed[-1]) == "assistant" and _is_blank(closed[-1]):
        closed.pop()
    return closed, len(closed) < len(messages)


def _is_blank(turn: Turn) -> bool:
    return not (said_in(turn) or "").strip() and not has_calls(turn)


def _sides(
    value: Any, name: str, where: str, prompt: Sequence[Turn]
) -> list[tuple[list[Message], str]]:
    """What is answered and the answer, of every response of one side."""
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return [side for text in value for side in _sides(text, name, where, prompt)]
    found = turns(value, name, where, speaker="assistant")
    if not found:
        raise OddRow("empty_response", f"{where} has an empty `{name}`: give it a response.")
    if role_of(found[-1]) != "assistant":
        raise OddRow(
            "no_response", f"`{name}` in {where} does not end with an assistant's response."
        )
    read = messages(found, name, where)
    *context, answer = read
    text = with_calls(answer)
    if not text.strip():
        raise OddRow("empty_response", f"{where} has an empty `{name}`: give it a response.")
    own = messages(prompt, "prompt", where)
    if not read or role_of(found[0]) == "assistant":
        return [([*own, *context], text)]
    if own and not _contains(context, own):
        raise OddRow(
            "no_common_prompt",
            f"{where} has a prompt that its `{name}`, a conversation, does not contain.",
        )
    return [(context, text)]


def _contains(context: Sequence[Message], prompt: Sequence[Message]) -> bool:
    """Whether a conversation has the last thing that a prompt asks."""
    asked = [turn["content"].strip() for turn in prompt if turn["role"] == "user"]
    said = [turn["content"].strip() for turn in context if turn["role"] == "user"]
    return not asked or asked[-1] in said


def _told(context: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"].strip()) for turn in context]


def _scores(row: Mapping[str, Any], where: str, columns: PairColumns) -> tuple[float, float]:
    """Of the better and the worse response; those of the columns of `SCORES` if given.

    Raises:
        OddRow: the scores say that the rejected one is better.
    """
    if columns.label is not None:
        return _labelled(value_at(row, columns.label), columns)
    for better, worse in SCORES:
        first, second = _number(row.get(better)), _number(row.get(worse))
        if math.isnan(first) or math.isnan(second):
            continue
        if first < second:
            raise OddRow(
                "inverted_labels",
                f"{where} has a `{worse}` above its `{better}`: exchange its sides, or leave out "
                "the scores.",
            )
        return first, second
    return 1.0, 0.0


def _labelled(value: Any, columns: PairColumns) -> tuple[float, float]:
    if _says(value, columns.chosen_if):
        return 1.0, 0.0
    if columns.rejected_if is None or _says(value, columns.rejected_if):
        return 0.0, 1.0
    return 0.0, 0.0


def _says(value: Any, wanted: Any) -> bool:
    """Whether a label has a value, whatever a CSV made of it: 1, 1.0, true and "1" are equal."""
    given = _number(value)
    if wanted in ("negative", "positive"):
        return given < 0 if wanted == "negative" else given > 0
    if not math.isnan(given) and not math.isnan(_number(wanted)):
        return given == _number(wanted)
    return str(value).strip().lower() == str(wanted).strip().lower()


def _number(value: Any) -> float:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return number(value)


def number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
