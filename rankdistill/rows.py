"""The rows that travel between stages. Every row is a plain dict, so it is also a `datasets` row.

prompts -> `Prompt`; sample, score and rank -> `Group`: a prompt with its responses, which gain
`scores`, then `score` and `rank`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

Split = Literal["train", "validation", "heldout"]
FinishReason = Literal["stop", "length"]


class ToolCall(TypedDict):
    """A call of a tool, as OpenAI has it."""

    id: NotRequired[str]
    type: Literal["function"]
    function: dict[str, str]
    """`name`, and `arguments` as the text of a JSON object."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str
    tools: NotRequired[str]
    """JSON of the tools that the assistant may call; the first message has those of all."""
    tool_calls: NotRequired[list[ToolCall]]
    """Of an assistant, beside what it says."""
    tool_call_id: NotRequired[str]
    """Which call a tool answers."""
    name: NotRequired[str]
    """Of the tool that answers."""


class Prompt(TypedDict):
    """A conversation that ends before the response."""

    prompt_id: str
    """Hash of the messages: equal conversations have equal ids in every data set."""
    split: Split
    """Choices are made on validation, figures are reported on heldout."""
    messages: list[Message]
    cluster: NotRequired[str]
    """Prompts of one cluster share their split, and intervals resample them together: the id of the
    base prompt, or the value of `prompts.split_by`. Not there: each prompt is one of its own."""
    columns: NotRequired[str]
    """JSON object of the columns that `prompts.keep` names, for verifiers."""
    set: NotRequired[str]
    """Which of several sets it is of, as `prompts.path` names it."""
    response: NotRequired[str]
    """What the data has an assistant answer; nothing is trained on it unless it is asked for."""
    teacher_messages: NotRequired[list[Message]]
    """The conversation as the teacher sees it, where it sees more than the student."""
    origin: NotRequired[str]
    """How the teacher came to write the prompt, `instruct` or `evolve`; not there for others."""


class Response(TypedDict):
    """One response to a prompt."""

    text: str
    token_ids: list[int]
    """As sampled, EOS included when the model wrote it; not re-tokenised by the same tokenizer."""
    finish_reason: FinishReason
    """`stop`: ended by EOS; `length`: cut by a limit of tokens."""
    source: str
    """Who wrote it: `student`, `teacher`, or the name in an imported data set."""
    turns: NotRequired[list[list[int]]]
    """Spans [start, end) of `token_ids` that an assistant wrote, where a whole conversation follows
    the prompt (`warmup.conversations`); not there: all of them."""
    whole_tokens: NotRequired[int]
    """Tokens before `rank.max_response_tokens` cut it, of a response of an imported set."""
    thought_tokens: NotRequired[int]
    """Tokens before its answer, which were thought; all of one that was cut before it answered; not
    there: none. Its text has thoughts as `rankdistill.thoughts` says."""
    scores: NotRequired[dict[str, float]]
    """One value per scorer, higher is better, each in its scorer's own scale."""
    aspects: NotRequired[dict[str, float]]
    """A judge's value for every aspect that it was asked about, by `scorer/aspect`."""
    score: NotRequired[float]
    """The value the ranking is made from."""
    rank: NotRequired[int]
    """0 is best; tied responses share a rank."""


def answer_tokens(response: Response) -> int:
    """Tokens that a response answers with, EOS included: all but those of its thoughts."""
    return len(response["token_ids"]) - response.get("thought_tokens", 0)


class Ballot(TypedDict):
    """One verdict of a judge on the order of some responses to a prompt."""

    scorer: str
    shown: list[int]
    """Places in the group's `responses`, in the order in which the judge read them."""
    ranks: list[int]
    """One for each of `shown`: 0 is best, ties share a rank."""


class Group(TypedDict):
    """A prompt and the responses to it."""

    prompt_id: str
    split: Split
    messages: list[Message]
    cluster: NotRequired[str]
    """As in `Prompt`."""
    columns: NotRequired[str]
    """As in `Prompt`."""
    set: NotRequired[str]
    """As in `Prompt`."""
    teacher_messages: NotRequired[list[Message]]
    """As in `Prompt`."""
    prompt_tokens: NotRequired[int]
    """How many of the prompt's tokens the responses stand behind, where a chat template writes
    something for a model to go on from (an open thought) that it leaves out before a given answer;
    not there: all of them."""
    responses: list[Response]
    ballots: NotRequired[list[Ballot]]
    """The verdicts that judges of orders gave; the scores of such judges are made of them."""


def row_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a prompt or a group keeps of its source; empty where it keeps none."""
    return json.loads(row.get("columns") or "{}")


def column_of(row: Mapping[str, Any], name: str) -> Any:
    """The value of a row's column, or of one that `prompts.keep` names; None: it has none."""
    return row[name] if name in row else row_columns(row).get(name)
