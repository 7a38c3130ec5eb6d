"""What both samplers take from a model's folder besides its weights, and the rows they make."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import decode_response
from rankdistill.rows import Response

_NOT_SHAPE = ("_name_or_path", "transformers_version", "tie_word_embeddings")


def contents(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and mtime of every file: equal only while the folder is unchanged."""
    stats = ((file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def shape(folder: Path) -> dict[str, Any]:
    """The configuration without what may differ between weights that fit the same engine."""
    return {key: v for key, v in _read(folder / "config.json").items() if key not in _NOT_SHAPE}


def stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's EOS, and those in the model's generation config.

    Chat models often have two: the end of a turn, and the end of a document.
    """
    for name in ("generation_config.json", "config.json"):
        named = _read(folder / name).get("eos_token_id")
        if named is not None:
            break
    more = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({tokenizer.eos_token_id, *more})


def check_positions(folder: Path, prompts: Iterable[list[int]], max_response_tokens: int) -> int:
    """Tokens of the longest prompt with its response.

    Raises:
        UserError: the model has fewer positions than that.
    """
    longest = max(map(len, prompts))
    positions = max_positions(folder)
    if positions is not None and longest + max_response_tokens > positions:
        raise UserError(
            f"A prompt of {longest} tokens and sample.max_response_tokens={max_response_tokens} "
            f"exceed the {positions} positions of the model in '{folder}': lower "
            f"prompts.max_prompt_tokens or sample.max_response_tokens."
        )
    return longest + max_response_tokens


def max_positions(folder: Path) -> int | None:
    """Longest sequence the model was made for, where its configuration says so."""
    config = _read(folder / "config.json")
    config = config.get("text_config") or config
    return config.get("max_position_embeddings") or config.get("n_positions")


def to_response(
    tokenizer: Any, token_ids: list[int], ends: Collection[int], source: str
) -> Response:
    """The row of a sampled response: `stop` if one of its tokens is one of `ends`, else `length`.

    What stands behind that token is padding, and left out.
    """
    first = next((i for i, token in enumerate(token_ids) if token in ends), len(token_ids))
    token_ids = token_ids[: first + 1]
    return {
        "text": decode_response(tokenizer, token_ids),
        "token_ids": token_ids,
        "finish_reason": "stop" if token_ids[-1] in ends else "length",
        "source": source,
    }


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
