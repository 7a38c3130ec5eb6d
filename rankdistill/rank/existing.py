"""A ranked set that exists already: rows with ranked responses, or with chosen and rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import encode_response
from rankdistill.prompts import prompt_id, read_rows
from rankdistill.prompts.formats import conversation
from rankdistill.prompts.splits import Splitter
from rankdistill.records import Group, Response


def read_ranked(path: str, tokenizer: Any, splits: Mapping[str, float]) -> list[Group]:
    """The groups of a ranked set, with a `score` in every response.

    A row has its prompt as a prompt file has it, and either `responses` (each with `text`, and
    `score`, or `rank` with 0 for the best) or TRL's `chosen` and `rejected`. A folder is what a run
    wrote as `ranked/`. Responses without `token_ids` are tokenised, with EOS.

    Raises:
        UserError: No such set, or a row without responses, named by its place.
    """
    splitter = Splitter(splits, dict.fromkeys(splits), 0)
    groups = []
    for where, row in _rows(path):
        messages = conversation(row, where)
        identifier = row.get("prompt_id") or prompt_id(messages)
        responses = [_response(r, tokenizer, where) for r in _responses(row, where)]
        split = splitter.split_of(identifier, row.get("split"), where)
        groups.append(
            Group(prompt_id=identifier, split=split, messages=messages, responses=responses)
        )
    return groups


def _rows(path: str) -> Any:
    folder = Path(path)
    if not folder.is_dir():
        yield from read_rows(path)
        return
    parts = sorted(folder.glob("*.parquet")) + sorted(folder.glob("*.jsonl"))
    if not parts:
        raise UserError(f"rank.path '{path}' has no .parquet and no .jsonl file.")
    for part in parts:
        yield from read_rows(str(part))


def _responses(row: Mapping[str, Any], where: str) -> Sequence[Mapping[str, Any]]:
    if row.get("responses"):
        return row["responses"]
    if row.get("chosen") and row.get("rejected"):
        texts = [_text(row["chosen"]), _text(row["rejected"])]
        return [{"text": text, "score": 1.0 - i} for i, text in enumerate(texts)]
    raise UserError(
        f"{where}: a ranked row needs `responses`, or `chosen` and `rejected`; it has "
        f"{', '.join(sorted(map(str, row)))}."
    )


def _text(side: Any) -> str:
    """TRL's chosen or rejected: text, or a conversation whose last turn is the response."""
    return side if isinstance(side, str) else side[-1]["content"]


def _response(given: Mapping[str, Any], tokenizer: Any, where: str) -> Response:
    if "text" not in given or (given.get("score") is None and given.get("rank") is None):
        raise UserError(f"{where}: a response needs `text`, and `score` or `rank`.")
    score = given.get("score")
    value = float(-given["rank"]) if score is None else float(score)
    return {
        "text": given["text"],
        "token_ids": list(given.get("token_ids") or encode_response(tokenizer, given["text"])),
        "finish_reason": given.get("finish_reason") or "stop",
        "source": str(given.get("source") or "imported"),
        "scores": dict(given.get("scores") or {"imported": value}),
        "score": value,
    }
