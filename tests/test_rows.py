"""What stages hand to each other: the rows, what determines them, whose tokens they have."""

from __future__ import annotations

from rankdistill.models import Model, Rows
from rankdistill.store import Store


def group(name: str, *responses: list[int], split: str = "train") -> dict:
    return {
        "prompt_id": name,
        "split": split,
        "messages": [{"role": "user", "content": name}],
        "responses": [
            {"text": "", "token_ids": ids, "finish_reason": "length", "source": "student"}
            for ids in responses
        ],
    }


GROUPS = [group("a", [5, 6], []), group("b", []), group("c", [7], split="heldout")]


def test_a_response_without_a_token_is_not_read(tiny_dir):
    writer = Model(str(tiny_dir), {})
    tokens = Rows(GROUPS, "key", writer).tokens(writer)
    assert [[list(ids) for ids in of.responses] for of in tokens] == [[[5, 6]], [[7]]]


def test_keys_say_what_was_taken_and_what_joined(tiny_dir):
    rows = Rows(GROUPS, "key", Model(str(tiny_dir), {}))
    assert rows.first(2).key == "key first 2" and rows.first(None).key == "key first 3"
    assert rows.of_splits("heldout").key == "key" and len(rows.of_splits("heldout")) == 1
    both = rows.joined(Rows([group("a", [8]), group("d", [9])], "more"))
    assert both.key == ["key", "more"] and both.writer == rows.writer
    assert [len(g["responses"]) for g in both] == [3, 1, 1]
    assert len(GROUPS[0]["responses"]) == 2  # the given groups are as they were


def test_an_outputs_rows_stay_on_disk_until_they_are_asked_for(tmp_path):
    output = Store(tmp_path).output("sample", {}, lambda partial: partial.shards().put(GROUPS))
    rows = Rows.of(output)
    assert len(rows) == 3 and list(rows) == GROUPS and rows.rows is not rows.rows
    held = rows.held()
    assert held.rows is held.rows and (held.key, held.rows) == (output.key, GROUPS)
