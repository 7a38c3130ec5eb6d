"""Rows become ranked groups of token ids, and groups the candidates of an objective."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_answers, encode_response, token_group
from rankdistill.rank.formats import as_group
from rankdistill.rank.ranking import ranks
from rankdistill.rank.row import ended, own_ids
from rankdistill.store.sequences import LazyRows


@dataclass(frozen=True)
class RankedGroup:
    """One prompt with its responses in tokens, their scores and ranks. The order means nothing."""

    prompt_id: str
    tokens: TokenGroup
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    reference_logps: tuple[float, ...] | None = None
    """Nats, the sum over each response's tokens under the frozen reference."""
    cluster: str | None = None
    """See `rankdistill.rows.Prompt`."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the longest response."""
        return len(self.tokens.prompt) + max(len(response) for response in self.tokens.responses)


class RankedGroups(Sequence[RankedGroup]):
    """Rows that stay on the disk, each in tokens when it is asked for.

    Args:
        rows: `Group` rows.
        places: Which of them.
        same_tokenizer: As of `ranked_group`.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        places: Sequence[int],
        *,
        same_tokenizer: bool | None = None,
    ) -> None:
        self._rows, self._tokenizer, self._places = rows, tokenizer, array("q", places)
        self._same_tokenizer = same_tokenizer

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> RankedGroup: ...
    @overload
    def __getitem__(self, index: slice) -> RankedGroups: ...
    def __getitem__(self, index: int | slice) -> RankedGroup | RankedGroups:
        if isinstance(index, slice):
            return self.at(range(*index.indices(len(self))))
        place, same = self._places[index], self._same_tokenizer
        return ranked_group(self._rows[place], place, self._tokenizer, same_tokenizer=same)

    def at(self, numbers: Iterable[int]) -> RankedGroups:
        """Some of these groups."""
        places = [self._places[number] for number in numbers]
        return RankedGroups(
            self._rows, self._tokenizer, places, same_tokenizer=self._same_tokenizer
        )


def load_groups(
    rows: Iterable[Mapping[str, Any] | RankedGroup],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
) -> Sequence[RankedGroup]:
    """The rows in tokens. Nothing is truncated: what is too long is left out, and a line says so.

    Args:
        rows: `Group` rows, or preference rows, see `ranked_group`; a `RankedGroup` stays, and
            `RankedGroups`, which are read once here, stay on the disk.
        max_length: Most tokens of a prompt with its longest response; None takes all.

    Raises:
        UserError: a row cannot be trained on, or all of them are too long.
    """
    on_disk = rows if isinstance(rows, RankedGroups) else None
    counts: Counter[str] = Counter()
    groups: list[RankedGroup] = []
    fitting, count, shortest = array("q"), 0, math.inf
    for index, row in enumerate(rows):
        known = isinstance(row, RankedGroup)
        group = row if known else ranked_group(row, index, tokenizer, counts=counts)
        count, shortest = count + 1, min(shortest, group.length)
        if max_length is None or group.length <= max_length:
            fitting.append(index)
            if on_disk is None:
                groups.append(group)
    if counts["retokenised"]:
        say(
            f"{counts['retokenised']} responses brought token ids of another tokenizer: their text "
            "is encoded again."
        )
    if max_length is not None and count and not fitting:
        raise UserError(
            f"All {count} prompts are longer than {max_length} tokens with their longest "
            f"response, the shortest by {shortest - max_length}: "
            "raise max_length or shorten the responses."
        )
    if len(fitting) < count:
        say(
            f"Left out {count - len(fitting)} of {count} prompts: with their longest "
            f"response they are longer than {max_length} tokens."
        )
    return groups if on_disk is None else on_disk.at(fitting)


def own_groups(rows: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> Sequence[RankedGroup]:
    """The rows in tokens, all of whose token ids this tokenizer wrote: as a run's own rows are.

    Rows that are on the disk stay there, so that the processes of a training share them.
    """
    groups = RankedGroups(rows, tokenizer, range(len(rows)), same_tokenizer=True)
    return groups if isinstance(rows, LazyRows) else list(groups)


def ranked_group(
    row: Mapping[str, Any],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    same_tokenizer: bool | None = None,
    counts: Counter[str] | None = None,
) -> RankedGroup:
    """One row in tokens.

    `token_ids` of a response are kept where this tokenizer wrote them, see `own_ids`; otherwise its
    text is tokenised and ends with EOS, unless `finish_reason` says that it was cut. Ranks without
    scores give the scores 0, -1, ...; scores without ranks give the ranks, where only equal scores
    tie.

    Args:
        row: `Group` of rows.py, optionally with `reference_logps`, a value per response; or a
            preference row, see `as_group`.
        index: Position of the row, by which it is named where it has no `prompt_id`.
        same_tokenizer: Whether this tokenizer wrote the row's ids; None where nothing records it.
        counts: Responses whose ids were not kept are counted here, as `retokenised`.

    Raises:
        UserError: not such a row; fewer than two distinct responses; a response without score and
            rank.
    """
    group = as_group(row, f"Row {index}")
    prompt_id = str(group.get("prompt_id") or f"row {index}")
    prompt, responses = _token_ids(group, tokenizer, same_tokenizer, counts)
    if len({tuple(ids) for ids in responses}) < 2:
        raise UserError(
            f"Prompt '{prompt_id}' has fewer than two distinct responses, so there is nothing to "
            "rank: leave it out."
        )
    scores, order = _scores_and_ranks(group["responses"], prompt_id)
    return RankedGroup(
        prompt_id,
        # Four bytes per token, where a list takes some thirty: a data set may be in memory.
        TokenGroup(
            array("i", prompt),
            [array("i", ids) for ids in responses],
        ),
        scores,
        order,
        _reference(group, prompt_id),
        group.get("cluster"),
    )


def _token_ids(
    group: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    same_tokenizer: bool | None,
    counts: Counter[str] | None,
) -> tuple[list[int], list[list[int]]]:
    """The prompt, and its responses: the ids that they bring, else those of their text."""
    responses = group["responses"]
    # Without a text there is nothing that ids could be held against.
    own = [own_ids(r, tokenizer, same_tokenizer or not r.get("text") or None) for r in responses]
    texts = [r["text"] for r, ids in zip(responses, own, strict=True) if ids is None]
    prompt = token_group({**group, "responses": []}, tokenizer).prompt
    if not texts:
        return list(prompt), [ids for ids in own if ids is not None]
    if counts is not None:
        brought = sum(bool(response.get("token_ids")) for response in responses)
        counts["retokenised"] += brought - sum(ids is not None for ids in own)
    whole, answers = encode_answers(tokenizer, group["messages"], texts)
    if len(texts) == len(responses):
        prompt = whole
    elif len(whole) < len(prompt):  # those that have ids stand behind the whole prompt
        answers = [encode_response(tokenizer, text) for text in texts]
    written = iter(answers)
    return list(prompt), [
        ids if ids is not None else ended(response, next(written))
        for response, ids in zip(responses, own, strict=True)
    ]


def _scores_and_ranks(
    responses: Sequence[Mapping[str, Any]], prompt_id: str
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    given: list[Any] = [response.get("score") for response in responses]
    order: list[Any] = [response.get("rank") for response in responses]
    if None in given and None in order:
        raise UserError(
            f"Prompt '{prompt_id}' has a response without a score and one without a rank: "
            "give each response a `score` (higher is better) or a `rank` (0 is best)."
        )
    scores = [-float(rank) for rank in order] if None in given else [float(s) for s in given]
    if not all(math.isfinite(score) for score in scores):
        raise UserError(f"Prompt '{prompt_id}' has a score that is not a number: leave it out.")
    return tuple(scores), tuple(ranks(scores) if None in order else map(int, order))


def _reference(group: Mapping[str, Any], prompt_id: str) -> tuple[float, ...] | None:
    logps = group.get("reference_logps")
    if logps is None:
        return None
    if len(logps) != len(group["responses"]) or not all(math.isfinite(logp) for logp in logps):
        raise UserError(
            f"Prompt '{prompt_id}' has {len(group['responses'])} responses but its "
            f"`reference_logps` are {list(logps)}: make them with add_reference_logps."
        )
    return tuple(map(float, logps))
