"""Files of one's own for the recipes that take one: graded lists, conversations, a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ranked_set(folder: Path) -> list[str]:
    """Overrides that name graded lists of four responses to each of 40 prompts."""
    said = ("no", "well, no", "well, yes", "well, it is yes")
    lists = [
        {"instruction": f"Question {i}?", "responses": [
            {"output": text, "generator": f"m{n}", "grade": str(n / 4)}
            for n, text in enumerate(said)]}
        for i in range(40)
    ]  # fmt: skip
    return [f"rank.path={write_rows(folder / 'lists.jsonl', lists)}", "rank.score_column=grade"]


def conversations(folder: Path) -> list[str]:
    """Overrides that name conversations, some of which answer a prompt of `ranked_set` too."""
    talks = [
        {"messages": [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": f"Because of {i}."}]}
        for i in range(60)
    ]  # fmt: skip
    return [
        f"warmup.conversations={write_rows(folder / 'talks.jsonl', talks)}",
        "warmup.train_conversations=6", "warmup.validation_conversations=2",
    ]  # fmt: skip


def search(folder: Path) -> list[str]:
    """Overrides that name a corpus of 12 fruits and a query for each, whose passage is relevant."""
    fruits = ["apple", "pear", "plum", "fig", "date", "lime"]
    fruits += ["kiwi", "peach", "grape", "melon", "lemon", "mango"]
    corpus = [
        {"id": f"p-{f}", "text": f"The {f} is a fruit, and {f} jam is sweet."} for f in fruits
    ]
    split = ["train", "train", "heldout"] * 4
    queries = [
        {"text": f"what is {f} jam", "relevant": [f"p-{f}"], "split": s}
        for f, s in zip(fruits, split, strict=True)
    ]
    return [
        f"retrieval.corpus={write_rows(folder / 'corpus.jsonl', corpus)}",
        f"retrieval.queries={write_rows(folder / 'queries.jsonl', queries)}",
    ]
