"""The ranked set as files: a `datasets` table, TRL's rows."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from rankdistill.errors import UserError, suggest
from rankdistill.rows import Group
from rankdistill.store.faults import put
from rankdistill.store.files import replaced
from rankdistill.store.sequences import selected, values_of
from rankdistill.tool_calls import tools_of

Rows = Iterator[dict[str, Any]]
PAIRS = ("best_worst", "all", "adjacent")
"""Which pairs of a ranking `trl` takes; tied responses never make one."""
ROWS_AT_ONCE = 1000
TOKENIZER = b"rankdistill.tokenizer"
"""The name in a Parquet file's metadata."""


def export(groups: Iterator[dict[str, Any]], to: Path, how: str, pairs: str = "best_worst") -> int:
    """Writes a `.jsonl` or `.parquet` file; returns its number of rows.

    Raises:
        UserError: an unknown format, choice of pairs or ending, nothing to write, or it cannot be
            written.
    """
    for given, known, what in ((how, FORMATS, "format"), (pairs, PAIRS, "choice of pairs")):
        if given not in known:
            raise UserError(f"There is no {what} '{given}': {suggest(given, known)}")
    if to.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"'{to}' must end in .jsonl or .parquet.")
    rows = [row for group in groups for row in FORMATS[how](_ordered(group), pairs)]
    if not rows:
        raise UserError("There is nothing to write: no prompt has two responses of different rank.")
    content = io.BytesIO()
    if to.suffix == ".jsonl":
        lines = (json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
        content.write("".join(lines).encode(errors="replace"))
    else:
        # Parquet has no object without fields.
        Dataset.from_list([_filled(row) for row in rows]).to_parquet(content)
    remedy = "make its folder writable or make space, or give another place"
    put(to, content.getvalue(), remedy, parents=True)
    return len(rows)


def trl(group: Mapping[str, Any], pairs: str) -> Rows:
    """TRL's conversational preference rows, which its trainers take as they are."""
    tools = tools_of(group["messages"])
    prompt = [{k: v for k, v in m.items() if k != "tools"} for m in group["messages"]]
    for better, worse in _pairs(group["responses"], pairs):
        yield {
            "prompt": prompt,
            **({} if tools is None else {"tools": tools}),
            "chosen": [{"role": "assistant", "content": better["text"]}],
            "rejected": [{"role": "assistant", "content": worse["text"]}],
            "score_chosen": better["score"],
            "score_rejected": worse["score"],
            "prompt_id": group["prompt_id"],
        }


def ultrafeedback(group: Mapping[str, Any], pairs: str) -> Rows:
    """UltraFeedback's rows; a judge's aspects become `annotations` with a rating each."""
    completions = [
        {
            "model": response.get("source", ""),
            "response": response["text"],
            "fine-grained_score": response["score"],
            "overall_score": response["score"],
            "annotations": {
                name.rpartition("/")[2]: {"Rating": value}
                for name, value in (response.get("aspects") or {}).items()
            }
            or None,
        }
        for response in group["responses"]
    ]
    messages = group["messages"]
    if tools_of(messages) or any(message.get("tool_calls") for message in messages):
        raise UserError(
            f"The prompt '{group['prompt_id']}' has tools, for which UltraFeedback's rows have no "
            "place: write --format trl or jsonl."
        )
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    asked = messages if system is None else messages[1:]
    alone = len(asked) == 1 and asked[0]["role"] == "user"
    instruction = asked[0]["content"] if alone else _told(asked)
    models = [completion["model"] for completion in completions]
    yield {
        "source": "rankdistill",
        "instruction": instruction,
        **({} if system is None else {"system": system}),
        "models": models,
        "completions": completions,
        "prompt_id": group["prompt_id"],
    }


def jsonl(group: Mapping[str, Any], pairs: str) -> Rows:
    """The group itself, best first."""
    yield dict(group)


FORMATS: dict[str, Callable[[Mapping[str, Any], str], Rows]] = {
    "trl": trl,
    "ultrafeedback": ultrafeedback,
    "jsonl": jsonl,
}


def _ordered(group: dict[str, Any]) -> dict[str, Any]:
    """The group with the responses that have a score, best first.

    Ballots name places, so they stay where no response moves.
    """
    known = [r for r in group["responses"] if r.get("score") is not None]
    known = [r for r in known if math.isfinite(r["score"])]
    ordered = sorted(known, key=_key)
    if ordered != group["responses"]:
        group = {key: value for key, value in group.items() if key != "ballots"}
    return {**group, "responses": ordered}


def _key(response: Mapping[str, Any]) -> tuple[float, float]:
    rank = response.get("rank")
    return (0.0 if rank is None else rank, -response["score"])


def _pairs(responses: list[dict[str, Any]], which: str) -> Iterator[tuple[Any, Any]]:
    chosen = list(combinations(responses, 2))
    if which == "best_worst":
        chosen = [(responses[0], responses[-1])] if responses else []
    elif which == "adjacent":
        chosen = list(pairwise(responses))
    return ((better, worse) for better, worse in chosen if not _tied(better, worse))


def _tied(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """By rank where there are ranks, which have the margins of the ranking in them."""
    if a.get("rank") is None or b.get("rank") is None:
        return a["score"] == b["score"]
    return a["rank"] == b["rank"]


def _told(messages: list[dict[str, Any]]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "\n\n".join(f"{names.get(m['role'], m['role'])}: {m['content']}" for m in messages)


def _filled(value: Any) -> Any:
    """The value with None for every object without fields."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items()} or None
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def write_table(groups: Sequence[Group], folder: Path, tokenizer: str | None = None) -> None:
    """One Parquet file per split; `datasets.load_dataset(folder)` reads them as its splits.

    Args:
        tokenizer: `tokenizer_digest` of what wrote the token ids; each file's metadata records it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = values_of(groups, "split")
    for split in dict.fromkeys(splits):
        rows = selected(groups, [place for place, of in enumerate(splits) if of == split])
        # Twice, since what the rows have in common is known behind the last.
        schema = pa.unify_schemas(
            [table.schema for table in _tables(rows)], promote_options="permissive"
        )
        noted = Features.from_arrow_schema(schema).arrow_schema.metadata or {}
        if tokenizer is not None:
            noted = {**noted, TOKENIZER: tokenizer}
        schema = schema.with_metadata(noted)
        with (
            replaced(folder / f"{split}.parquet") as file,
            pq.ParquetWriter(file, schema) as writer,
        ):
            for table in _tables(rows, schema):
                writer.write_table(table)


def _tables(rows: Sequence[Any], schema: pa.Schema | None = None) -> Iterator[pa.Table]:
    """Some rows at a time, with the columns that any of them has, or those of a schema."""
    left = iter(rows)
    while part := list(islice(left, ROWS_AT_ONCE)):
        names = schema.names if schema else dict.fromkeys(name for row in part for name in row)
        yield pa.table({name: [row.get(name) for row in part] for name in names}, schema=schema)


def recorded_tokenizer(file: Path) -> str | None:
    """The digest of the tokenizer that wrote a file's token ids; None where it records none."""
    if file.suffix != ".parquet":
        return None
    try:
        found = (pq.read_schema(file).metadata or {}).get(TOKENIZER)
    except (OSError, pa.ArrowException):  # whoever reads its rows says what is wrong with it
        return None
    return found and found.decode()
