"""Any conversation in any shape comes back; what cannot be read is counted, and nothing is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_prompts import load, write
from test_rank_existing import read
from tiny_models import build_tokenizer

from rankdistill.errors import UserError
from rankdistill.prompts.formats import conversation
from rankdistill.prompts.odd_rows import REASONS
from rankdistill.rank.formats import ranked_row

TOKENIZER = build_tokenizer()
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text.strip() == text and text[0] not in "[{" and "Human:" not in text
)
Turns = list[tuple[str, str]]


@st.composite
def conversations(draw: st.DrawFn) -> Turns:
    """Turns of user and assistant in turn, the user's first and last; sometimes the system's."""
    texts = draw(st.lists(WORDS, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2))
    turns = [("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]
    system = draw(st.none() | WORDS)
    return turns if system is None else [("system", system), *turns]


def messages(turns: Turns) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in turns]


def sharegpt(turns: Turns) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[role], "value": text} for role, text in turns]


def with_parts(turns: Turns) -> list[dict[str, Any]]:
    return [
        {"role": role.upper(), "content": [{"type": "text", "text": text}], "name": None}
        for role, text in turns
    ]


def of_lists(turns: Turns) -> dict[str, list[str]]:
    return {"role": [role for role, _ in turns], "content": [text for _, text in turns]}


SHAPES: dict[str, Callable[[Turns], Any]] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "parts": with_parts,
    "lists": of_lists,
    "json": lambda turns: json.dumps(messages(turns)),
    "python": lambda turns: str(sharegpt(turns)),
}


@given(conversations(), st.sampled_from(sorted(SHAPES)), st.sampled_from(["messages", "prompt"]))
@settings(max_examples=150, deadline=None)
def test_a_conversation_comes_back_from_every_shape(turns, shape, column):
    row = {column: SHAPES[shape](turns), "split": None, "id": 3}
    assert conversation(row, "line 1") == messages(turns)


@given(conversations(), WORDS, WORDS, st.sampled_from(sorted(SHAPES)), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_pair_comes_back_from_every_shape(turns, better, worse, shape, repeats, prompt):
    def side(text: str) -> Any:
        return SHAPES[shape]([*(turns if repeats else []), ("assistant", text)])

    row = {"chosen": side(better), "rejected": side(worse)}
    if prompt or not repeats:
        row["prompt"] = messages(turns)
    found, responses = ranked_row(row, "line 1")
    assert found == messages(turns)
    assert [r["text"] for r in responses] == [better, worse]
    assert responses[0]["score"] > responses[1]["score"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "text", "score", "rank", "x"]), inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
ROWS = st.dictionaries(
    st.sampled_from(
        ["messages", "prompt", "conversations", "instruction", "input", "context", "history",
         "system", "chosen", "rejected", "responses", "completions", "scores", "label",
         "completion", "response_0", "response_1", "better_response_id", "score_chosen"]
    ),
    VALUES, max_size=5,
)  # fmt: skip
SHARES = {"train": 1.0, "validation": 0.0, "heldout": 0.0}


@given(st.lists(ROWS, min_size=1, max_size=4))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_row_holds_it_is_kept_or_counted(tmp_path, rows):
    fine = {"prompt": "Name a prime.", "chosen": "Seven.", "rejected": "Nine."}
    groups, counts = read(tmp_path, [fine, *rows])
    aside = ("empty", "too_long", "score_missing", "single", "all_tied", *REASONS)
    unpaired = sum(_unpaired(row) for row in rows)
    assert counts["read"] == len(rows) + 1
    lost = counts["read"] - len(groups) - sum(Counter(counts)[name] for name in aside)
    assert 0 <= lost <= unpaired  # rows of one prompt that make one ranking
    prompts, read_counts = load(write(tmp_path, [fine, *rows]), TOKENIZER, splits=SHARES)
    left = sum(read_counts.get(name, 0) for name in ("duplicates", "empty", "too_long", *REASONS))
    assert read_counts["read"] == len(prompts) + left


def _unpaired(row: dict[str, Any]) -> bool:
    try:
        return bool(ranked_row(row, "line 1")[1][0].get("unpaired"))
    except UserError:
        return False
