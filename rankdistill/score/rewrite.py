"""A rule's rewrite: where a program can do what is demanded, one response that does it joins.

A demand that none of a student's own samples ever meets ties its whole group and teaches nothing.
Some of them are string functions: capitals, small letters, quotation marks. There the best response
is rewritten, and the ranking puts the rewrite before the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

from rankdistill.models import Model, encode_response
from rankdistill.rows import Group, Response
from rankdistill.score.verifier.instructions import follows


def best_response(group: Group) -> Response | None:
    """The first of the best-scored responses."""
    known = [r for r in group["responses"] if math.isfinite(r.get("score", math.nan))]
    return max(known, key=lambda response: response.get("score", 0.0), default=None)


SOURCE = "rule"
REWRITES: Mapping[str, Callable[[str], str]] = {
    "change_case:english_capital": str.upper,
    "change_case:english_lowercase": str.lower,
    "startend:quotation": lambda text: f'"{text.strip().strip(chr(34))}"',
}
"""By the demand's rule."""


def rewrites(groups: Sequence[Group], writer: Model, max_response_tokens: int) -> list[Group]:
    """The groups that have a demand which none of their responses follows and a rule can meet.

    Each with one response, unscored: the best one, rewritten. One that would be longer than
    `max_response_tokens` is left out, since its end would be missing.

    Args:
        groups: Scored groups.
        writer: The model whose tokenizer the responses' token ids belong to.
        max_response_tokens: As in sampling.
    """
    tokenizer = writer.tokenizer()
    result = []
    for group in groups:
        best = best_response(group)
        missed = [rule for rule in _demanded(group) if rule in REWRITES and _missed(group, rule)]
        if best is None or not missed:
            continue
        text = best["text"]
        for rule in missed:
            text = REWRITES[rule](text)
        token_ids = encode_response(tokenizer, text)
        if len(token_ids) <= max_response_tokens:
            response = Response(text=text, token_ids=token_ids, finish_reason="stop", source=SOURCE)
            result.append({**group, "responses": [response]})
    return result


def _demanded(group: Group) -> list[str]:
    columns = json.loads(group.get("columns") or "{}")
    return columns.get("instruction_id_list", [])


def _missed(group: Group, rule: str) -> bool:
    """Whether no response follows the rule; those in `REWRITES` take no arguments."""
    return not any(follows(response["text"], rule, {}) for response in group["responses"])
