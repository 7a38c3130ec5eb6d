"""Rows that stay on the disk: Arrow files, and what is made of them without holding them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from tiny_models import build_tokenizer

from rankdistill.models import Rows
from rankdistill.rank import rank_groups, ranked_groups
from rankdistill.rank.combine import combine, debiased
from rankdistill.rank.diagnostics import diagnose
from rankdistill.rank.write import write_table
from rankdistill.schema import RankConfig, Select
from rankdistill.store import Partial, Shards, Store
from rankdistill.store import columns as columns_module
from rankdistill.store.sequences import LazyRows, values_of
from rankdistill.train.groups import RankedGroup, RankedGroups, load_groups, own_groups

ODD = [
    {
        "prompt_id": "a \ud83d",
        "split": "train",
        "messages": [
            {"role": "user", "content": "line\nU+2028 \u2028 \x85 é 漢 \U0001f600 \ud83d"}
        ],
        "columns": '{"answer": 4}',
        "tools": {"call": {"nothing": None, "list": []}},
        "responses": [
            {"text": "x", "token_ids": [1, 2**31 - 1, 0], "scores": {"judge": 0.1}, "score": 1},
            {"text": "y", "token_ids": [], "scores": {"verifier": float("inf")}, "aspects": {}},
        ],
    },
    {"prompt_id": "b", "split": "heldout", "messages": []},
    {"prompt_id": "c", "responses": []},
    {"prompt_id": "d", "split": None, "responses": [{"text": "no ids yet"}]},
    {"prompt_id": 5, "values": [[1.5, None]]},
]
"""What Arrow's structs would fill with nulls, or refuse."""


def groups(count: int) -> list[Any]:
    return [
        {
            "prompt_id": f"p{n}",
            "split": ("train", "train", "validation", "heldout")[n % 4],
            "messages": [{"role": "user", "content": f"say {n}"}],
            "responses": [
                {
                    "text": "abc"[: k + 1],
                    "token_ids": [10 + n % 7, 20 + k, *[7] * k],
                    "finish_reason": "stop",
                    "source": "student",
                    "scores": {"judge": float((n * 7 + k * 3) % 5), "human": float(k)},
                    "score": float((n * 5 + k * 3) % 4),
                }
                for k in range(3)
            ],
        }
        for n in range(count)
    ]


def stored(rows: list[Any]) -> Rows:
    identity = {"rows": json.dumps(rows)}
    return Rows.of(Store().output("rank", identity, lambda p: p.shards().put(rows)))


def small_files(monkeypatch) -> None:
    """Several record batches and several files, as of many thousand rows."""
    monkeypatch.setattr(columns_module, "_BATCH", 2)
    whole = columns_module.files
    monkeypatch.setattr(columns_module, "files", lambda rows, most=1500: whole(rows, most))


def test_every_row_comes_back_as_it_was(monkeypatch):
    small_files(monkeypatch)
    rows = [*ODD, *groups(9)]
    output = Store().output("rank", {}, lambda partial: partial.shards().put(rows))
    back = output.rows()
    assert list(back) == rows and [back[i] for i in range(len(rows))] == rows
    assert [list(row) for row in back] == [list(row) for row in rows]  # the order of keys as well
    assert back == rows and back[-1] == rows[-1] and back[3:7] == rows[3:7]
    for key in ("prompt_id", "split", "messages"):
        assert list(values_of(back, key)) == [row.get(key) for row in rows]
    assert output.manifest["rows"] == {"rows": len(rows)}
    files = sorted((output.path / "rows").iterdir())
    assert len(files) > 2 and {file.suffix for file in files} == {".arrow"}
    with pytest.raises(IndexError):
        back[len(rows)]


def test_a_file_is_a_data_set_with_int32_tokens():
    output = Store().output("rank", {}, lambda p: p.shards().put(groups(5)))
    [file] = (output.path / "rows").iterdir()
    loaded = Dataset.from_file(str(file))
    assert loaded.features["token_ids"].feature.feature.dtype == "int32"
    assert loaded["prompt_id"][:2] == ["p0", "p1"] and len(loaded) == 5


def test_appended_shards_are_jsonl_until_the_output_is_complete():
    rows, seen = groups(6), []

    def make(partial: Partial) -> dict:
        shards = partial.shards()
        for row in rows:
            shards.append([row])
        partial.shards("counts").append([{"calls": 3}])
        seen.extend(path.suffix for path in sorted((partial.path / "rows").iterdir()))
        assert shards.rows() == rows
        return {}

    output = Store().output("sample", {}, make)
    assert seen == [".jsonl"] * 6 and output.rows() == rows
    assert [path.name[:6] for path in sorted((output.path / "rows").iterdir())] == [
        f"{n:06d}" for n in range(6)
    ]
    assert {path.suffix for path in (output.path / "rows").iterdir()} == {".arrow"}
    assert output.rows("counts") == [{"calls": 3}]  # what is about no prompt stays as it was


def test_a_damaged_file_of_columns_is_made_again_alone():
    rows, made = groups(4), []

    def make(partial: Partial) -> dict:
        shards = partial.shards()
        done = {row["prompt_id"] for row in shards.rows()}
        for row in rows:
            if row["prompt_id"] not in done:
                made.append(row["prompt_id"])
                shards.append([row])
        return {}

    output = Store().output("sample", {}, make)
    first, second, *_ = sorted((output.path / "rows").iterdir())
    whole, kept = second.read_bytes(), first.stat().st_ino
    for damaged in (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], whole[:200]):
        assert output.rows() == rows  # it has been mapped
        second.write_bytes(damaged)
        made.clear()
        output = Store().output("sample", {}, make)
        assert made == ["p1"] and output.rows() == rows and first.stat().st_ino == kept


def test_what_was_put_stays_until_all_is_put_again(tmp_path):
    shards, rows = Shards(tmp_path / "rows"), groups(300)

    def stopped() -> Iterator[Any]:
        yield from rows[:270]
        raise RuntimeError("stopped")

    shards.put(rows)
    with pytest.raises(RuntimeError, match="stopped"):
        shards.put(stopped())
    assert Shards(tmp_path / "rows").rows() == rows
    shards.put(rows[:2])
    assert Shards(tmp_path / "rows").rows() == rows[:2]


def test_a_kill_between_the_two_forms_leaves_no_row_twice():
    rows = groups(3)

    def make(partial: Partial) -> dict:
        shards = partial.shards()
        for row in rows[len(shards.rows()) :]:
            shards.append([row])
        return {}

    def killed(partial: Partial) -> dict:
        make(partial)
        [first, *_] = sorted((partial.path / "rows").glob("*.jsonl"))
        from rankdistill.store.shards import digest

        data = columns_module.file(rows[:1])
        first.with_name(f"000000-{digest(data)}.arrow").write_bytes(data)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        Store().output("sample", {}, killed)
    assert Store().output("sample", {}, make).rows() == rows


def test_an_output_of_an_earlier_version_is_read(monkeypatch):
    rows = groups(5)
    monkeypatch.setattr(columns_module, "is_about_prompts", lambda row: False)
    output = Store().output("sample", {}, lambda partial: partial.shards().put(rows))
    monkeypatch.undo()
    assert [path.suffix for path in (output.path / "rows").iterdir()] == [".jsonl"]
    found = Store(output.path.parents[1]).find(output.key)
    assert found is not None and found.rows() == rows
    assert Rows.of(found).of_splits("heldout").rows == [rows[3]]


def test_choosing_and_joining_read_nothing_until_it_is_asked_for(monkeypatch):
    rows = stored(groups(8))
    read: list[int] = []
    whole = columns_module.Columns.__getitem__
    monkeypatch.setattr(
        columns_module.Columns, "__getitem__", lambda self, i: read.append(i) or whole(self, i)
    )
    held_out = rows.of_splits("heldout")
    both = rows.joined(rows.of_splits("train"))
    assert len(held_out) == 2 and len(both) == 8 and not read
    assert [row["prompt_id"] for row in held_out] == ["p3", "p7"] and read == [3, 7]
    joined = [len(row["responses"]) for row in both]
    assert joined == [6, 6, 3, 3, 6, 6, 3, 3] and isinstance(both.rows, LazyRows)


def test_ranking_on_the_disk_is_ranking_in_memory(tmp_path: Path):
    given = groups(24)
    config = RankConfig(
        path=None, score_column=None, responses_per_prompt=None, max_response_tokens=None,
        tie_margin=0.0, select=Select.all, top_k=2,
    )  # fmt: skip
    for weights in (None, {"judge": 1.0, "human": 2.0}):
        in_memory, slope = debiased(combine(given, weights, "mean"))
        kept, counts = rank_groups(in_memory, config, 0)
        streamed, same = debiased(combine(stored(given).rows, weights, "mean"))
        assert isinstance(streamed, LazyRows) and same == slope
        seen: Counter[str] = Counter()
        assert list(ranked_groups(streamed, config, 0, seen)) == kept and seen == counts
    assert diagnose(stored(given).rows) == diagnose(given)
    write_table(stored(kept).rows, tmp_path / "streamed")
    write_table(kept, tmp_path / "whole")
    a, b = (
        load_dataset(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        for name in ("streamed", "whole")
    )
    assert {name: list(rows) for name, rows in a.items()} == {k: list(v) for k, v in b.items()}
    assert list(a["train"]) == [row for row in kept if row["split"] == "train"]


def test_a_table_has_what_only_a_late_row_has(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rankdistill.rank.write.ROWS_AT_ONCE", 2)
    rows = groups(9)
    rows[8]["columns"] = json.dumps({"answer": 1})
    rows[8]["responses"][0]["scores"]["late"] = 2.0
    write_table(rows, tmp_path / "ranked")
    loaded = load_dataset(str(tmp_path / "ranked"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded[-1]["columns"] == '{"answer": 1}' and loaded[0]["columns"] is None
    assert loaded[-1]["responses"][0]["scores"]["late"] == 2.0
    assert loaded[0]["responses"][0]["scores"] == {"human": 0.0, "judge": 0.0, "late": None}


def test_training_reads_groups_where_they_are():
    tokenizer, rows = build_tokenizer(), groups(8)
    rows[5]["responses"][0]["token_ids"] = [7] * 300
    held = load_groups(own_groups(rows, tokenizer), tokenizer, 100)
    lazily = load_groups(own_groups(stored(rows).rows, tokenizer), tokenizer, 100)
    assert isinstance(held, list) and isinstance(held[0], RankedGroup)
    assert isinstance(lazily, RankedGroups) and list(lazily) == held and len(held) == 7
    assert lazily[5].prompt_id == "p6" and list(lazily[2:4]) == held[2:4]
    assert list(lazily.at([6, 0])) == [held[6], held[0]]
