"""Rows become ranked groups of token ids, and groups the candidates of an objective."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_answers, encode_response, token_group
from rankdistill.rank.existing import ended, own_ids
from rankdistill.rank.formats import as_group
from rankdistill.rank.ranking import ranks


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


def load_groups(
    rows: Iterable[Mapping[str, Any] | RankedGroup],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
) -> list[RankedGroup]:
    """The rows in tokens. Nothing is truncated: what is too long is left out, and a line says so.

    Args:
        rows: `Group` rows, or preference rows, see `ranked_group`; a `RankedGroup` stays.
        max_length: Most tokens of a prompt with its longest response; None takes all.

    Raises:
        UserError: a row cannot be trained on, or all of them are too long.
    """
    counts: Counter[str] = Counter()
    groups = [
        row if isinstance(row, RankedGroup) else ranked_group(row, index, tokenizer, counts=counts)
        for index, row in enumerate(rows)
    ]
    if counts["retokenised"]:
        say(
            f"{counts['retokenised']} responses brought token ids of another tokenizer: their text "
            "is encoded again."
        )
    if max_length is None:
        return groups
    kept = [group for group in groups if group.length <= max_length]
    if groups and not kept:
        raise UserError(
            f"All {len(groups)} prompts are longer than {max_length} tokens with their longest "
            f"response, the shortest by {min(group.length for group in groups) - max_length}: "
            "raise max_length or shorten the responses."
        )
    if len(kept) < len(groups):
        say(
            f"Left out {len(groups) - len(kept)} of {len(groups)} prompts: with their longest "
            f"response they are longer than {max_length} tokens."
        )
    return kept


def own_groups(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[RankedGroup]:
    """The rows in tokens, all of whose token ids this tokenizer wrote: as a run's own rows are."""
    return [
        ranked_group(row, index, tokenizer, same_tokenizer=True) for index, row in enumerate(rows)
    ]


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
        # Four bytes per token, where a list takes some thirty: the whole data set is in memory.
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
