"""Keys, shards, manifests and the faults of one process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rankdistill.store import Partial, Store, canonical_json, home, key_of
from rankdistill.store import attempt as attempts
from rankdistill.store import shards as shards_module
from rankdistill.store.shards import MERGED


def rows_of(*numbers: int) -> list[dict[str, int]]:
    return [{"number": number} for number in numbers]


def make_nine(partial: Partial) -> dict[str, int]:
    """Rows 0 to 8 in batches of three, only those that are missing; and a file of weights."""
    shards = partial.shards()
    made = {row["number"] for row in shards.rows()}
    missing = [number for number in range(9) if number not in made]
    for start in range(0, len(missing), 3):
        shards.append(rows_of(*missing[start : start + 3]))
    model = partial.path / "model"
    model.mkdir(exist_ok=True)
    (model / "weights.bin").write_bytes(bytes(range(256)))
    return {"made": len(missing)}


# -------------------------------------------------------------------------------------------- keys


def test_golden_key():
    identity = {"temperature": 1.0, "model": {"sha": "abc", "layers": [1, 2]}, "limit": None}
    text = (
        '{"identity":{"limit":null,"model":{"layers":[1,2],"sha":"abc"},"temperature":1},'
        '"stage":"sample"}'
    )
    assert canonical_json({"stage": "sample", "identity": identity}) == text
    expected = "sample-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    assert key_of("sample", identity) == expected == "sample-6cd7d5dacf8c3481"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1e-4}, {"a": 0.0001}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": -0.0}, {"a": 0}),
        ({"a": 1e300}, {"a": int(1e300)}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"a": {"x": 1, "y": 2}, "b": 3}, {"b": 3, "a": {"y": 2, "x": 1}}),
        ({"a": np.float64(0.1)}, {"a": 0.1}),
    ],
)
def test_equal_identities_have_equal_keys(left, right):
    assert key_of("train", left) == key_of("train", right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": True}, {"a": 1}),
        ({"a": False}, {"a": None}),
        ({"a": "1"}, {"a": 1}),
        ({"a": 0.1}, {"a": 0.1 + 2**-55}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": None}, {}),
    ],
)
def test_different_identities_have_different_keys(left, right):
    assert key_of("train", left) != key_of("train", right)


def test_the_stage_is_part_of_the_key():
    assert key_of("rank", {})[5:] != key_of("score", {})[6:]


@pytest.mark.parametrize("value", [Path("x"), object(), {1, 2}, b"x", np.int64(3), {3: 4}])
def test_identity_refuses_what_json_cannot_say(value):
    with pytest.raises(TypeError, match=r"identity\.deep\[1\]"):
        key_of("train", {"deep": [0, value]})


def test_identity_refuses_numbers_without_a_json_form_and_bad_stage_names():
    with pytest.raises(ValueError, match=r"identity\.a is nan"):
        key_of("train", {"a": float("nan")})
    with pytest.raises(ValueError, match="stage name"):
        key_of("../train", {})


def test_home(monkeypatch, tmp_path):
    assert home() == tmp_path / "home" and Store().root == home()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKDISTILL_HOME", "here")
    assert home() == tmp_path / "here"
    monkeypatch.delenv("RANKDISTILL_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "rankdistill"
    assert home().stat().st_mode & 0o777 == 0o700  # what a user made is nobody else's to read


def test_the_store_imports_nothing_heavy():
    code = "import rankdistill.store.__main__, sys; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "transformers", "datasets", "trl", "numpy", "filelock", "rich"} & {
        *modules
    }


# ---------------------------------------------------------------------------------- made and found


def test_made_once_and_found_afterwards():
    store = Store()
    first = store.output("sample", {"seed": 1}, make_nine)
    again = Store().output("sample", {"seed": 1.0}, lambda partial: pytest.fail("made twice"))
    assert first == again
    assert again.rows() == rows_of(*range(9)) and again.rows("others") == []
    assert store.find(first.key) == first and store.find("sample-0000000000000000") is None
    assert again.stage == "sample" and again.path == store.root / "outputs" / again.key
    assert not (store.root / "partial" / again.key).exists()


def test_manifest():
    output = Store().output(
        "train",
        {"rate": 1e-4},
        lambda p: {**make_nine(p), "loss": np.float32(0.5)},
    )
    written = json.loads((output.path / "manifest.json").read_bytes())
    assert written == output.manifest
    assert written["identity"] == {"rate": 0.0001}
    assert written["counts"] == {"made": 9, "loss": 0.5} and written["rows"] == {"rows": 9}
    assert written["attempts"] == 1 and written["seconds"] >= 0
    assert {"python", "torch", "transformers", "trl"} <= written["versions"].keys()
    weights = (output.path / "model" / "weights.bin").read_bytes()
    assert written["files"]["model/weights.bin"] == {
        "size": 256,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert written["files"].keys() == {
        path.relative_to(output.path).as_posix()
        for path in output.path.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_a_stage_that_raises_is_continued(monkeypatch):
    store, folders, clock = Store(), [], [100.0]
    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def fails(partial: Partial) -> None:
        folders.append(partial.path)
        partial.shards().append(rows_of(0, 1, 2))
        (partial.scratch / "checkpoint").write_text("half way")
        clock[0] += 7
        raise RuntimeError("the teacher fell asleep")

    def continues(partial: Partial) -> dict[str, int]:
        folders.append(partial.path)
        assert (partial.scratch / "checkpoint").read_text() == "half way"
        clock[0] += 5
        return make_nine(partial)

    with pytest.raises(RuntimeError, match="asleep"):
        store.output("sample", {}, fails)
    key = key_of("sample", {})
    assert store.find(key) is None and not store.output_path(key).exists()
    record = json.loads((store.partial_path(key) / "attempt.json").read_bytes())
    assert (record["state"], record["error"]) == ("failed", "the teacher fell asleep")

    output = store.output("sample", {}, continues)
    assert folders[0] == folders[1]
    assert output.manifest["counts"] == {"made": 6}
    assert (output.manifest["seconds"], output.manifest["attempts"]) == (12, 2)
    assert output.rows() == rows_of(*range(9))
    assert not list(output.path.rglob("checkpoint"))


def test_what_a_kill_while_publishing_leaves_is_cleared():
    store = Store()
    key = key_of("sample", {})
    files = store.partial_path(key) / "files"
    (files / "rows").mkdir(parents=True)
    (files / "manifest.json").write_text("{}")
    (files / "rows" / ".tmp-12-0").write_text('{"number": 0')
    output = store.output("sample", {}, make_nine)
    assert output.rows() == rows_of(*range(9))
    assert not [name for name in output.manifest["files"] if ".tmp" in name]
    # Renamed, but killed before the checkpoints were removed.
    (store.partial_path(key) / "scratch").mkdir(parents=True)
    store.output("sample", {}, make_nine)
    assert not store.partial_path(key).exists()


def test_the_manifest_is_the_stores_own_file():
    with pytest.raises(ValueError, match="own file"):
        Store().output("rank", {}, lambda p: (p.path / "manifest.json").write_text("{}") and None)


# ------------------------------------------------------------------------------------------ shards


def test_rows_round_trip(tmp_path):
    shards = Partial(tmp_path, tmp_path).shards("texts")
    rows = [
        {"text": "line\nU+2028 \u2028 \x85 é 漢 \U0001f600 \ud83d"},
        {"ids": [1, 2], "score": -0.1},
    ]
    shards.append(rows[:1])
    shards.append([])
    shards.append(rows[1:])
    assert shards.rows() == rows == Partial(tmp_path, tmp_path).shards("texts").rows()
    assert len(list((tmp_path / "texts").iterdir())) == 2


def test_only_the_writer_appends(tmp_path):
    Partial(tmp_path, tmp_path).shards().append(rows_of(1))
    reader = Partial(tmp_path, tmp_path, writable=False).shards()
    assert reader.rows() == rows_of(1)
    with pytest.raises(RuntimeError, match="rank 0"):
        reader.append(rows_of(2))


def names_of(folder: Path) -> list[str]:
    return sorted(path.name.rsplit("-", 1)[0] for path in (folder / "rows").iterdir())


def test_many_appends_leave_few_files(tmp_path):
    shards = Partial(tmp_path, tmp_path).shards()
    for number in range(2 * MERGED + 2):
        shards.append(rows_of(number))
    merged = ["000000-000255", "000256-000511"]
    assert names_of(tmp_path) == [*merged, "000512", "000513"]
    again = Partial(tmp_path, tmp_path).shards()
    assert shards.rows() == again.rows() == rows_of(*range(2 * MERGED + 2))
    again.append(rows_of(-1))
    assert names_of(tmp_path) == [*merged, "000512", "000513", "000514"]


def test_a_kill_while_merging_loses_and_doubles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MERGED", 3)
    shards = Partial(tmp_path, tmp_path).shards()
    with monkeypatch.context() as patched:
        # As if killed after each of the steps of a merge: written, one removed, two removed.
        patched.setattr(Path, "unlink", lambda path: pytest.fail("killed"))
        for number in range(2):
            shards.append(rows_of(number))
        with pytest.raises(BaseException, match="killed"):
            shards.append(rows_of(2))
    for left in (["000000", "000000-000002", "000001", "000002"], ["000000-000002", "000001"]):
        for path in (tmp_path / "rows").iterdir():
            if path.name.rsplit("-", 1)[0] not in left:
                path.unlink()
        assert names_of(tmp_path) == left
        assert Partial(tmp_path, tmp_path, writable=False).shards().rows() == rows_of(0, 1, 2)
    opened = Partial(tmp_path, tmp_path).shards()
    assert names_of(tmp_path) == ["000000-000002"] and opened.rows() == rows_of(0, 1, 2)


def test_a_kill_before_a_merge_is_made_up_for(tmp_path, monkeypatch):
    shards = Partial(tmp_path, tmp_path).shards()
    for number in range(3):
        shards.append(rows_of(number))
    monkeypatch.setattr(shards_module, "MERGED", 3)
    assert Partial(tmp_path, tmp_path).shards().rows() == rows_of(0, 1, 2)
    assert names_of(tmp_path) == ["000000-000002"]


def test_a_damaged_merged_shard_is_made_again_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MERGED", 3)
    shards = Partial(tmp_path, tmp_path).shards()
    for number in range(9):
        shards.append(rows_of(number))
    before = {path.name for path in (tmp_path / "rows").iterdir()}
    victim = next((tmp_path / "rows").glob("000003-*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    again = Partial(tmp_path, tmp_path).shards()
    assert again.rows() == rows_of(0, 1, 2, 6, 7, 8)
    for number in (3, 4, 5):
        again.append(rows_of(number))
    assert {path.name for path in (tmp_path / "rows").iterdir()} == before


def test_rows_that_are_put_replace_what_a_killed_attempt_left(tmp_path):
    Partial(tmp_path, tmp_path).shards().append(rows_of(1, 2))
    for _ in range(2):
        Partial(tmp_path, tmp_path).shards().put(rows_of(1, 2, 3))
    assert Partial(tmp_path, tmp_path).shards().rows() == rows_of(1, 2, 3)
    with pytest.raises(RuntimeError, match="rank 0"):
        Partial(tmp_path, tmp_path, writable=False).shards().put(rows_of(2))
