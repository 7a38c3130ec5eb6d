"""Conversations of a data set of their own, in which every turn of the assistant is learned.

dSFT as in Zephyr (Tunstall et al. 2023, arXiv:2310.16944), whose conversations (UltraChat) are not
those of the ranked set. Unlike the paper's code ours learns the assistant's turns alone, and a row
is one conversation: nothing is packed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.models import encode_answers
from rankdistill.prompts import prompt_id
from rankdistill.prompts.formats import conversation, response_in, unread_columns
from rankdistill.prompts.odd_rows import OddRow, OddRows
from rankdistill.prompts.sources import read_rows
from rankdistill.rows import Group, Message, Response, Split
from rankdistill.tool_calls import with_calls


@dataclass(frozen=True)
class Conversations:
    """Which conversations are learned.

    Args:
        path: A file or a data set of the hub, as for prompts.
        max_tokens: Conversations are cut after so many tokens; what is cut has no EOS.
        train: Most conversations to learn; None: all that are left.
        validation: Conversations to measure on.
    """

    path: str
    max_tokens: int
    train: int | None
    validation: int

    def read(
        self, tokenizer: PreTrainedTokenizerBase, held_out: Set[str]
    ) -> tuple[list[Group], dict[str, int]]:
        """The conversations as rows to learn, and what became of the rest.

        Which are taken, and for which split, a hash of the conversation draws.

        Args:
            tokenizer: The student's; its chat template is followed.
            held_out: Ids of prompts that no conversation may answer.

        Raises:
            UserError: no such file or data set.
        """
        odd = OddRows(self.path)
        drawn, counts = self._drawn(held_out, odd)
        groups: list[Group] = []
        for identifier in sorted(drawn):
            number = counts["conversations"]
            split: Split = "validation" if number < self.validation else "train"
            if self.train is not None and number >= self.validation + self.train:
                break
            try:
                written = rows_of(tokenizer, drawn[identifier])
            except UserError as error:
                odd.add(OddRow("refused_by_template", str(error)))
                continue
            rows = [kept for row in written if (kept := row.cut(self.max_tokens)) is not None]
            counts["conversations" if rows else "too_long"] += 1
            counts["cut"] += any(row.is_cut for row in rows)
            groups += [row.group(f"{identifier}-{i}", split) for i, row in enumerate(rows)]
        odd.tell()
        return groups, {**counts, **odd.counts}

    def _drawn(
        self, held_out: Set[str], odd: OddRows
    ) -> tuple[dict[str, list[Message]], Counter[str]]:
        names = (
            "read",
            "duplicates",
            "held_out",
            "without_answer",
            "too_long",
            "cut",
            "conversations",
        )
        counts: Counter[str] = Counter(dict.fromkeys(names, 0))
        drawn: dict[str, list[Message]] = {}
        for where, row in read_rows(self.path):
            counts["read"] += 1
            odd.add_unread(unread_columns(row), where)
            try:
                messages = _whole(row, where)
            except OddRow as error:
                odd.add(error)
                continue
            answered = {prompt_id(messages[:turn]) for turn in _turns(messages)}
            identifier = prompt_id(messages)
            if not answered:
                counts["without_answer"] += 1
            elif answered & held_out:
                counts["held_out"] += 1
            elif identifier in drawn:
                counts["duplicates"] += 1
            else:
                drawn[identifier] = messages
        return drawn, counts


@dataclass
class ConversationRow:
    """A conversation in tokens: a prompt, and all that follows."""

    messages: list[Message]
    """Up to the first turn that is learned."""
    prompt: list[int]
    rest: list[int]
    turns: list[list[int]]
    """Spans [start, end) of `rest` that the assistant wrote, EOS included."""
    text: str
    """What the assistant says first."""
    is_cut: bool = False

    def cut(self, most: int) -> ConversationRow | None:
        """The first `most` tokens; None where the assistant says nothing in them."""
        rest = self.rest[: max(0, most - len(self.prompt))]
        if len(rest) == len(self.rest):
            return self
        turns = [[start, min(end, len(rest))] for start, end in self.turns if start < len(rest)]
        if not turns:
            return None
        return ConversationRow(
            self.messages, self.prompt, rest[: turns[-1][1]], turns, self.text, True
        )

    def group(self, identifier: str, split: Split) -> Group:
        """The row that travels between stages."""
        response = Response(
            text=self.text,
            token_ids=self.rest,
            finish_reason="length" if self.is_cut else "stop",
            source="data",
            turns=self.turns,
        )
        return Group(
            prompt_id=identifier, split=split, messages=self.messages, responses=[response]
        )


def rows_of(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[ConversationRow]:
    """The rows in which each turn of the assistant follows what it would follow in use.

    One row, unless the chat template writes earlier turns differently once others follow (some
    leave thoughts out): a turn whose prompt does not continue the row before begins another.
    """
    rows: list[ConversationRow] = []
    for turn in _turns(messages):
        text = with_calls(messages[turn])
        prompt, [answer] = encode_answers(tokenizer, messages[:turn], [text])
        before = rows[-1].prompt + rows[-1].rest if rows else []
        if not rows or prompt[: len(before)] != before:
            rows.append(ConversationRow(list(messages[:turn]), prompt, [], [], text))
            before = prompt
        row = rows[-1]
        row.rest += prompt[len(before) :]
        row.turns.append([len(row.rest), len(row.rest) + len(answer)])
        row.rest += answer
    return rows


def _turns(messages: Sequence[Message]) -> list[int]:
    """Places of the assistant's turns that answer somebody."""
    return [
        i
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
        and (message["content"].strip() or message.get("tool_calls"))
        and any(before["role"] != "system" for before in messages[:i])
    ]


def _whole(row: Mapping[str, Any], where: str) -> list[Message]:
    """A row's conversation with the response at its end."""
    messages, response = conversation(row, where), response_in(row)
    if response is not None and messages:
        messages = [*messages, Message(role="assistant", content=response)]
    return messages
