"""Prompts: read, de-duplicated, measured and split, the same way whatever else is in the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError, suggest
from rankdistill.fields import Amount
from rankdistill.models.tokenizer import encode_prompt
from rankdistill.prompts.formats import conversation, response_in, unread_columns
from rankdistill.prompts.odd_rows import OddRow, OddRows
from rankdistill.prompts.similarity import Evaluated
from rankdistill.prompts.sources import read_rows, source_identity
from rankdistill.prompts.splits import Splitter
from rankdistill.rows import Message, Prompt

__all__ = ["load_prompts", "prompt_id", "source_identity"]


def load_prompts(
    path: str | Mapping[str, Amount],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    splits: Mapping[str, float],
    limit: Mapping[str, int | None],
    seed: int,
    column: str | None = None,
    response_column: str | None = None,
    keep: Sequence[str] = (),
    split_by: str | None = None,
    split_column: str | None = "split",
    strict: bool = False,
    evaluated: Evaluated | None = None,
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts of a file, a hub data set or the starter set, with what became of the rest.

    A row is a conversation (`messages`, or ShareGPT's `conversations`), `prompt` (text or a
    conversation) or Alpaca's `instruction` and `input`. What an assistant said last is the
    response: it is no part of the prompt, and kept beside it (`response`). The split of a prompt
    depends on `seed` and its own messages only, so that it stays the same when the file grows; a
    `split` column wins.

    Args:
        path: "starter", a JSONL, JSON, CSV or Parquet file, or `owner/name[/config][:split]`; or
            several, each with how much of it is taken, see `Splitter.mixed`. A prompt that stands
            in two of them is of the first.
        tokenizer: Measures the prompts, chat template included.
        max_prompt_tokens: Longer prompts are dropped.
        splits: Share of train, validation and heldout; they add up to 1.
        limit: Most prompts of each split, None for all; those that the hash draws first.
        seed: Another seed is another draw of the splits.
        column: The column with the prompt, text or conversation; None finds it by the names above.
        response_column: The column with the response, where the prompt is text; None takes one of
            `formats.RESPONSES`.
        keep: Columns that stay with the prompt, in `columns`.
        split_by: Column by whose value the split is drawn, in place of the prompt's own messages:
            rows with equal values share it, and are one cluster.
        split_column: Column that states the split; None: all are drawn.
        strict: Whether a row that cannot be read ends it; else it stays out, and is counted.
        evaluated: Train and validation prompts that say what it asks are left out (`contaminated`).

    Returns:
        The prompts, train first, each split in the order of the hash; and the counts `read`,
        `duplicates`, `empty` (nothing but white space), `too_long`, what could not be read by its
        reason (see `odd_rows`), and kept by split.

    Raises:
        UserError: no such file or data set, an empty or malformed one (with the line), shares that
            don't add up, or no prompt left; with `strict` a row that cannot be read.
    """
    sets: Mapping[str, Amount] = {path: None} if isinstance(path, str) else path
    path = " and ".join(sets)
    splitter, odd = Splitter(splits, limit, seed), OddRows(path, strict)
    columns = _ColumnNames(column, response_column, keep, split_by, split_column)
    reader = _PromptReader(tokenizer, max_prompt_tokens, columns, splitter, odd, evaluated)
    for name in sets:
        of = name if len(sets) > 1 else None
        for where, row in read_rows(name):
            reader.add(row, where, of)
    odd.tell()
    counts = reader.counts
    if not reader.prompts:
        told, shortest = odd.nothing_left(counts["read"]), min(reader.too_long, default=None)
        raise UserError(told or _nothing_left(path, counts, max_prompt_tokens, shortest))
    kept = splitter.ordered(splitter.mixed(reader.prompts, sets))
    counts |= odd.counts | {name: sum(p["split"] == name for p in kept) for name in splits}
    return kept, counts | per_set(kept, sets)


@dataclass(frozen=True)
class _ColumnNames:
    """Where a row has the parts of a prompt, see `load_prompts`."""

    prompt: str | None
    response: str | None
    keep: Sequence[str]
    split_by: str | None
    split: str | None


@dataclass
class _PromptReader:
    """Makes prompts of rows, one after the other, and counts what becomes of the rest."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    columns: _ColumnNames
    splitter: Splitter
    odd: OddRows
    evaluated: Evaluated | None
    prompts: list[Prompt] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    """Tokens of the prompts that have more than `max_tokens`."""

    def __post_init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(("read", "duplicates", "empty", "too_long"), 0)
        self._seen: set[str] = set()

    def add(self, row: Mapping[str, Any], where: str, of: str | None) -> None:
        """The next row; `of` names its set, where there are several."""
        self.counts["read"] += 1
        self.odd.add_unread(unread_columns(row, self.columns.prompt), where)
        try:
            messages = conversation(row, where, self.columns.prompt)
            tokens = len(encoded_prompt(self.tokenizer, messages, where)) if messages else 0
        except OddRow as error:
            self.odd.add(error)
            return
        identifier = prompt_id(messages)
        if not messages:
            self.counts["empty"] += 1
        elif identifier in self._seen:
            self.counts["duplicates"] += 1
        elif tokens > self.max_tokens:
            self.counts["too_long"] += 1
            self.too_long.append(tokens)
            self._seen.add(identifier)
        elif (prompt := self._prompt(row, where, of, identifier, messages)) is None:
            self.counts["contaminated"] = self.counts.get("contaminated", 0) + 1
        else:
            self.prompts.append(prompt)
            self._seen.add(identifier)

    def _prompt(
        self,
        row: Mapping[str, Any],
        where: str,
        of: str | None,
        identifier: str,
        messages: list[Message],
    ) -> Prompt | None:
        """The row as a prompt of its split; None where that is trained on, and evaluated."""
        columns = self.columns
        cluster = None if columns.split_by is None else _cluster(row, columns.split_by, where)
        stated = row.get(columns.split) if columns.split else None
        split = self.splitter.split_of(cluster or identifier, stated, where)
        if self.evaluated and split != "heldout" and self.evaluated.has_part_of(messages):
            return None
        prompt = Prompt(prompt_id=identifier, split=split, messages=messages)
        if of is not None:
            prompt["set"] = of
        if cluster is not None:
            prompt["cluster"] = cluster
        if (response := response_in(row, columns.prompt, columns.response)) is not None:
            prompt["response"] = response
        if columns.keep:
            prompt["columns"] = kept_columns(row, columns.keep, where)
        return prompt


def prompt_id(messages: Sequence[Mapping[str, Any] | Message]) -> str:
    """Hash of the messages: 16 hexadecimal digits, equal for equal conversations everywhere."""
    content = [
        [m["role"], m["content"], *filter(None, (m.get("tools"), m.get("tool_calls")))]
        for m in messages
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def per_set(kept: Sequence[Mapping[str, Any]], sets: Mapping[str, Any]) -> dict[str, int]:
    """How many train prompts are of which of several sets, for the manifest; {} of one set."""
    if len(sets) < 2:
        return {}
    trained = [prompt["set"] for prompt in kept if prompt["split"] == "train"]
    return {f"train of {name}": trained.count(name) for name in sets}


def encoded_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str
) -> list[int]:
    """Token ids of a prompt. OddRow: the chat template refuses it."""
    try:
        return encode_prompt(tokenizer, messages)
    except UserError as error:
        raise OddRow("refused_by_template", f"{str(error).rstrip('.')} ({where}).") from error


def _cluster(row: Mapping[str, Any], column: str, where: str) -> str:
    """Hash of the value of `prompts.split_by`. UserError: `row` has no such value."""
    if row.get(column) is None:
        raise UserError(
            f"prompts.split_by names '{column}', which {where} does not have: "
            f"{suggest(column, row)}"
        )
    return hashlib.sha256(json.dumps(row[column], default=str).encode()).hexdigest()[:16]


def kept_columns(row: Mapping[str, Any], keep: Sequence[str], where: str) -> str:
    """The JSON object of the columns that stay with a prompt. UserError: `row` lacks one."""
    for name in keep:
        if name not in row:
            raise UserError(
                f"prompts.keep names '{name}', which {where} does not have: {suggest(name, row)}"
            )
    return json.dumps({name: row[name] for name in keep}, default=str)


def _nothing_left(
    path: str, counts: Mapping[str, int], max_prompt_tokens: int, shortest: int | None
) -> str:
    if not counts["read"]:
        return f"The prompts '{path}' are empty: write one prompt per line."
    if shortest is None:
        return f"The prompts '{path}' hold {counts['read']} rows, and no text in any of them."
    return (
        f"All prompts of '{path}' are longer than max_prompt_tokens={max_prompt_tokens} "
        f"(the shortest has {shortest} tokens, chat template included): raise it."
    )
