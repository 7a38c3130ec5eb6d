"""Rows become ranked groups of token ids, and groups the candidates of an objective."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_answers, encode_response, token_group
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
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[RankedGroup]:
    """The rows in tokens. Nothing is truncated: what is too long is left out, and a line says so.

    Args:
        rows: `Group` rows, or preference rows, see `ranked_group`.
        max_length: Most tokens of a prompt with its longest response; None takes all.

    Raises:
        UserError: a row cannot be trained on, or all of them are too long.
    """
    groups = [ranked_group(row, index, tokenizer) for index, row in enumerate(rows)]
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


def ranked_group(
    row: Mapping[str, Any], index: int, tokenizer: PreTrainedTokenizerBase
) -> RankedGroup:
    """One row in tokens.

    `token_ids` of a response are taken as they are; without them its text is tokenised and ends
    with EOS, unless `finish_reason` says that it was cut. Ranks without scores give the scores
    0, -1, ...; scores without ranks give the ranks, where only equal scores tie.

    Args:
        row: `Group` of rows.py, optionally with `reference_logps`, a value per response; or a
            preference row, see `as_group`.
        index: Position of the row, by which it is named where it has no `prompt_id`.

    Raises:
        UserError: not such a row; fewer than two distinct responses; a response without score and
            rank.
    """
    group = as_group(row, f"Row {index}")
    prompt_id = str(group.get("prompt_id") or f"row {index}")
    prompt, responses = _token_ids(group, tokenizer)
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
    group: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[list[int]]]:
    """The prompt, and its responses: the ids that they have, else those of their text."""
    responses = group["responses"]
    texts = [response for response in responses if not response.get("token_ids")]
    prompt = token_group({**group, "responses": []}, tokenizer).prompt
    if not texts:
        return list(prompt), [list(response["token_ids"]) for response in responses]
    whole, answers = encode_answers(tokenizer, group["messages"], [r["text"] for r in texts])
    if len(texts) == len(responses):
        prompt = whole
    elif len(whole) < len(prompt):  # those that have ids stand behind the whole prompt
        answers = [encode_response(tokenizer, response["text"]) for response in texts]
    written = iter(answers)
    return list(prompt), [
        list(response["token_ids"])
        if response.get("token_ids")
        else _ended(response, next(written))
        for response in responses
    ]


def _ended(response: Mapping[str, Any], token_ids: list[int]) -> list[int]:
    """Without EOS where the response was cut, since it must not teach that it ends there."""
    cut = response.get("finish_reason") == "length" and len(token_ids) > 1
    return token_ids[:-1] if cut else token_ids


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
