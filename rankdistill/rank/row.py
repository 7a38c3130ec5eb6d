"""A row of a ranked set, read and in tokens: what is made of it without looking at another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from rankdistill.errors import UserError
from rankdistill.models import (
    Thoughts,
    decode_response,
    encode_answers,
    encode_prompt,
    encode_response,
    tokenizer_digest,
)
from rankdistill.prompts import encoded_prompt, kept_columns, prompt_id
from rankdistill.prompts.formats import unread_columns
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.similarity import Evaluated
from rankdistill.prompts.splits import Splitter
from rankdistill.rank.formats import prompt_column, ranked_row
from rankdistill.rank.preferences import columns_of
from rankdistill.rank.ranking import distinct
from rankdistill.rows import Message, Response, Split
from rankdistill.schema import PromptsConfig, RankConfig
from rankdistill.thoughts import has_thoughts


@dataclass(frozen=True)
class RankedRow:
    """A row that was read."""

    name: str
    """The `prompt_id` that it has, or its content's."""
    content: str
    """The `prompt_id` of its messages."""
    split: Split
    messages: list[Message]
    given: list[dict[str, Any]]
    """Its responses, as `ranked_row` reads them."""
    columns: str | None
    prompt_tokens: int | None
    """As in `Group`; before its responses are in tokens, where the row brings it."""
    same_tokenizer: bool | None
    """Whether this tokenizer wrote the ids that the row brings; None where nothing records it."""
    set: str | None
    """As in `Group`."""
    responses: list[Response] | OddRow | None = None
    """In tokens, each once; or why they cannot be. None before."""
    counts: Counter[str] = field(default_factory=Counter)
    """`retokenised`: responses whose ids were brought, and made anew."""

    @property
    def unpaired(self) -> bool:
        """Whether it waits for the others that have its prompt."""
        return bool(self.given[0].get("unpaired"))


class Read(NamedTuple):
    """What became of a row."""

    where: str
    unread: list[str]
    """Columns that belong to the prompt, and are not read."""
    row: RankedRow | UserError | str
    """Or what is wrong with it, or as what it is left out: `too_long`, `empty`, `contaminated`."""


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of a set; see `read_ranked`."""

    rank: RankConfig
    prompts: PromptsConfig
    tokenizer: Any
    splitter: Splitter
    evaluated: Evaluated | None

    def read(self, placed: tuple[str, Mapping[str, Any], str | None, str | None]) -> Read:
        """A row in tokens, if it is not to wait for others.

        Args:
            placed: Where it stands, the row, what wrote its token ids (see `set_rows`), and the
                name of its set where there are several.
        """
        where, row, written_by, of = placed
        asked = prompt_column(row, self.prompts.column, self._columns)
        unread = unread_columns(row, asked)
        try:
            return Read(where, unread, self._read(where, row, written_by, of))
        except UserError as error:
            return Read(where, unread, error)

    def tokenised(self, row: RankedRow) -> RankedRow:
        """The row with its responses in tokens."""
        return self._tokenised(row, encode_prompt(self.tokenizer, row.messages))

    @cached_property
    def _columns(self) -> Any:
        return columns_of(self.rank.columns)

    @cached_property
    def _tokenizer_digest(self) -> str:
        return tokenizer_digest(self.tokenizer)

    def _read(
        self, where: str, row: Mapping[str, Any], written_by: str | None, of: str | None
    ) -> RankedRow | str:
        rank, prompts = self.rank, self.prompts
        messages, given = ranked_row(
            row, where, column=prompts.column, score=rank.score_column, columns=self._columns
        )
        if not messages:
            return "empty"
        asked = encoded_prompt(self.tokenizer, messages, where)
        if len(asked) > prompts.max_prompt_tokens:
            return "too_long"
        # By what it says, whatever it is called: equal prompts share a split.
        content = prompt_id(messages)
        stated = row.get(prompts.split_column) if prompts.split_column else None
        beside = kept_columns(row, prompts.keep, where) if prompts.keep else None
        split = self.splitter.split_of(content, stated, where)
        if self.evaluated and split != "heldout" and self.evaluated.has_part_of(messages):
            return "contaminated"
        behind = row.get("prompt_tokens")
        behind = behind if isinstance(behind, int) and behind > 0 else None
        same = None if written_by is None else written_by == self._tokenizer_digest
        name = str(row.get("prompt_id") or content)
        read = RankedRow(name, content, split, messages, given, beside, behind, same, of)
        return read if read.unpaired else self._tokenised(read, asked)

    def _tokenised(self, row: RankedRow, asked: list[int]) -> RankedRow:
        """As `tokenised`; `asked` are the ids of the prompt."""
        counts: Counter[str] = Counter()
        prompt_tokens = row.prompt_tokens
        responses: list[Response] | OddRow
        try:
            prompt_tokens, ids = self._token_ids(row, asked, counts)
            responses = self._responses(row.given, ids, asked[:prompt_tokens])
        except UserError as error:
            responses = OddRow("refused_by_template", str(error))
        return replace(row, prompt_tokens=prompt_tokens, responses=responses, counts=counts)

    def _token_ids(
        self, row: RankedRow, asked: list[int], counts: Counter[str]
    ) -> tuple[int | None, list[list[int]]]:
        """How many of the prompt's tokens the responses stand behind (None: all), and their ids.

        Ids that the row brings are kept where this tokenizer wrote them: where that is recorded, or
        where they decode to the text and nothing is. Others are counted as `retokenised`.
        """
        tokenizer = self.tokenizer
        own = [own_ids(response, tokenizer, row.same_tokenizer) for response in row.given]
        texts = [r["text"] for r, ids in zip(row.given, own, strict=True) if ids is None]
        if not texts:  # as they were written, behind as much of the prompt as then
            return row.prompt_tokens, [ids for ids in own if ids is not None]
        brought = sum(bool(response.get("token_ids")) for response in row.given)
        counts["retokenised"] += brought - sum(ids is not None for ids in own)
        prompt, answers = encode_answers(tokenizer, row.messages, texts, asked)
        if len(prompt) < len(asked) and len(texts) < len(own):
            # Some stand behind the whole prompt, so all have to.
            prompt, answers = asked, [encode_response(tokenizer, text) for text in texts]
        written = iter(answers)
        ids = [
            ids if ids is not None else ended(response, next(written))
            for response, ids in zip(row.given, own, strict=True)
        ]
        return None if len(prompt) == len(asked) else len(prompt), ids

    def _responses(
        self, given: Sequence[Mapping[str, Any]], ids: Sequence[list[int]], prompt: list[int]
    ) -> list[Response]:
        """The responses in tokens, each once; `prompt` is what they stand behind."""
        most = self.rank.max_response_tokens
        responses = [
            _response(response, of_it, self.tokenizer, most)
            for response, of_it in zip(given, ids, strict=True)
        ]
        thought = [has_thoughts(response["text"]) for response in given]
        if any(thought):
            thoughts = Thoughts.of(self.tokenizer)
            responses = [
                thoughts.apart(prompt, response) if apart else response
                for response, apart in zip(responses, thought, strict=True)
            ]
        return distinct(responses)


def ended(response: Mapping[str, Any], token_ids: list[int]) -> list[int]:
    """Without EOS where the response was cut when it was sampled: it must not teach an end."""
    cut = response.get("finish_reason") == "length" and len(token_ids) > 1
    return token_ids[:-1] if cut else token_ids


def own_ids(
    response: Mapping[str, Any], tokenizer: Any, same_tokenizer: bool | None
) -> list[int] | None:
    """The ids that a response brings, where this tokenizer wrote them.

    Args:
        same_tokenizer: Whether it did; None, where nothing records it: as the text says.
    """
    ids = response.get("token_ids")
    if same_tokenizer is False or not isinstance(ids, list | tuple) or not ids:
        return None
    if same_tokenizer:
        return list(ids)
    if not all(isinstance(i, int) and 0 <= i < len(tokenizer) for i in ids):
        return None
    return list(ids) if decode_response(tokenizer, ids) == response["text"] else None


def _response(
    given: Mapping[str, Any], token_ids: list[int], tokenizer: Any, most: int | None
) -> Response:
    """A response in tokens, cut to `most` of them; one that is cut has no EOS."""
    score = given["score"]
    whole = given.get("whole_tokens") or len(token_ids)
    response = Response(
        text=given["text"],
        token_ids=token_ids,
        finish_reason=given.get("finish_reason") or "stop",
        source=given["source"],
        whole_tokens=whole,
        scores=dict(given.get("scores") or {"imported": score}),
        score=score,
    )
    if most is None or len(token_ids) <= most:
        return response
    cut = token_ids[:most]
    return {
        **response,
        "text": decode_response(tokenizer, cut),
        "token_ids": cut,
        "finish_reason": "length",
    }
