"""Keys, shards, manifests and the faults of one process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store, canonical_json, home, key_of
from rankdistill.store import attempt as attempts


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
    monkeypatch.setenv("HOME", "/somewhere")
    assert home() == Path("/somewhere/.cache/rankdistill")


def test_the_store_imports_nothing_heavy():
    code = "import rankdistill.store.__main__, sys; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "transformers", "datasets", "trl", "numpy", "filelock", "rich"} & {
        *modules
    }


# ---------------------------------------------------------------------------------- made and found


def test_made_once_and_found_afterwards():
    store = Store()
    first = store.output("sample", {"seed": 1}, make_nine, {"batch_size": 4, "where": Path("/x")})
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
        {"device": "cpu"},
    )
    written = json.loads((output.path / "manifest.json").read_bytes())
    assert written == output.manifest
    assert written["identity"] == {"rate": 0.0001} and written["details"] == {"device": "cpu"}
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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [truncate, flip_a_bit, empty]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_of_a_partial_is_dropped_alone(damage, tmp_path, caplog):
    partial = Partial(tmp_path, tmp_path)
    make_nine(partial)
    victim = sorted((tmp_path / "rows").iterdir())[1]
    damage(victim)
    assert partial.shards().rows() == rows_of(0, 1, 2, 6, 7, 8)
    assert not victim.exists() and len(caplog.records) == 1 and victim.name in caplog.text
    assert make_nine(partial) == {"made": 3}
    # Made again, the batch stands where it stood.
    assert partial.shards().rows() == rows_of(*range(9)) and len(caplog.records) == 1


@pytest.mark.parametrize("damage", [*DAMAGE, Path.unlink])
def test_a_damaged_shard_of_an_output_is_made_again_alone(damage, caplog):
    store = Store()
    output = store.output("sample", {}, make_nine)
    intact = (output.path / "manifest.json").read_bytes()
    victim = sorted((output.path / "rows").iterdir())[1]
    others = {
        path: path.stat().st_ino for path in (output.path / "rows").iterdir() if path != victim
    }
    damage(victim)
    with pytest.raises(UserError, match="same command again"):
        output.rows()
    assert store.find(output.key) is None

    again = store.output("sample", {}, make_nine)
    assert again.manifest["counts"] == {"made": 3} and again.rows() == rows_of(*range(9))
    assert again.manifest["files"] == json.loads(intact)["files"]
    assert again.manifest["attempts"] == 2
    assert {path: path.stat().st_ino for path in others} == others
    assert "is damaged" in caplog.text and victim.name in caplog.text


@pytest.mark.parametrize("victim", ["model/weights.bin", "manifest.json"])
def test_other_damage_keeps_the_rows_only(victim):
    store = Store()
    output = store.output("train", {}, make_nine)
    truncate(output.path / victim)
    seen = []

    def make(partial: Partial) -> dict[str, int]:
        seen.extend(path.name for path in partial.path.iterdir())
        return make_nine(partial)

    again = store.output("train", {}, make)
    assert seen == ["rows"] and again.manifest["counts"] == {"made": 0}
    assert again.rows() == rows_of(*range(9)) and (again.path / "model" / "weights.bin").exists()


def test_a_flipped_bit_in_the_manifest_is_seen():
    store = Store()
    output = store.output("train", {}, make_nine)
    path = output.path / "manifest.json"
    path.write_text(path.read_text().replace('"made": 9', '"made": 8'))
    assert store.find(output.key) is None
    assert store.output("train", {}, make_nine).manifest["counts"] == {"made": 0}


# --------------------------------------------------------------------------------- the environment


def test_a_clock_that_goes_backwards_breaks_nothing(monkeypatch):
    real = time.time
    moments = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 1000.0 * next(moments))
    dates = iter(["2031-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"])
    for module in ("attempt", "outputs"):
        monkeypatch.setattr(f"rankdistill.store.{module}.utc_now", lambda: next(dates))
    output = Store().output("sample", {}, make_nine)
    assert output.manifest["finished"] < output.manifest["started"]
    assert output.manifest["seconds"] >= 0
    assert Store().output("sample", {}, lambda partial: pytest.fail("made twice")) == output


AS_NOBODY = """
import os, sys, filelock
from pathlib import Path
from rankdistill.errors import UserError
from rankdistill.store import Store
from rankdistill.store.__main__ import main
if os.getuid() == 0:
    os.setuid(65534)
for act in (lambda: Store().output("sample", {}, lambda p: None), lambda: print("list", main([]))):
    try:
        act()
        print("passed")
    except UserError as error:
        print(error)
"""


def run(code: str, *, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "RANKDISTILL_HOME": str(where), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )


def test_no_permission_is_one_sentence():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        root.mkdir()
        os.chmod(folder, 0o755)
        os.chmod(root, 0o555)
        done = run(AS_NOBODY, where=root)
        assert done.returncode == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert first.startswith(f"The store's folder {root} cannot be used by this user")
        assert "RANKDISTILL_HOME" in first
        assert rest == [f"No outputs in {root}.", "list 0", "passed"]
        os.chmod(root, 0o755)


def test_a_finished_output_is_found_without_write_permission():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        Store(root).output("sample", {}, make_nine)
        os.chmod(folder, 0o755)
        done = run(AS_NOBODY, where=root)
        assert done.stdout.splitlines()[0] == "passed", done.stdout + done.stderr


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"but {tmp_path}/file is a file"):
        Store(tmp_path / "file").output("sample", {}, make_nine)
    with pytest.raises(UserError, match=f"but {tmp_path}/file is a file"):
        Store(tmp_path / "file" / "below").output("sample", {}, make_nine)


ON_A_FULL_DISK = """
import resource
from rankdistill.errors import UserError
from rankdistill.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
def make(partial):
    shards = partial.shards()
    for number in range(len(shards.rows()), 10):
        shards.append([{"number": number, "text": "x" * 300 * number}])
try:
    print(len(Store().output("sample", {}, make).rows()))
except UserError as error:
    print(error)
"""


def test_disk_full_says_what_is_kept_and_the_same_command_continues(tmp_path):
    done = run(ON_A_FULL_DISK.replace("BYTES", "2000"), where=tmp_path)
    key = key_of("sample", {})
    sentence = done.stdout.strip()
    assert done.returncode == 0 and "\n" not in sentence, done.stderr
    assert sentence.startswith(f"No space for the store {tmp_path} on the file system mounted at /")
    assert (
        f"{key} keeps 7 rows (7 shards, " in sentence and f"partial/{key}, and the same" in sentence
    )
    assert "File too large" in sentence
    partial = Partial(Store(tmp_path).partial_path(key) / "files", tmp_path)
    assert [row["number"] for row in partial.shards().rows()] == list(range(7))
    assert not list(tmp_path.rglob(".tmp-*"))
    done = run(ON_A_FULL_DISK.replace("BYTES", str(1 << 20)), where=tmp_path)
    assert done.stdout.strip() == "10", done.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(122, "Disk quota exceeded"),
    ],
)
def test_disk_full_is_recognised_as_libraries_say_it(error):
    def make(partial: Partial) -> None:
        try:
            raise error
        except (OSError, RuntimeError) as cause:
            raise RuntimeError("could not save the checkpoint") from cause

    with pytest.raises(UserError, match="No space for the store"):
        Store().output("train", {}, make)


def test_disk_full_is_recognised_when_torch_has_lost_the_reason(monkeypatch):
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    def make(partial: Partial) -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        Store().output("train", {}, make)
    assert raised.value is error
    full = SimpleNamespace(total=10**9, used=10**9, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    with pytest.raises(UserError, match=r"0 B of 1 GB free\): train-"):
        Store().output("train", {}, make)


def test_a_mistake_inside_a_stage_is_not_taken_for_the_stores(caplog):
    caplog.set_level(logging.INFO)
    for error in (UserError("no EOS"), PermissionError(13, "Permission denied", "/models/x")):
        with pytest.raises(type(error)) as raised:
            Store().output("train", {}, lambda p, error=error: (_ for _ in ()).throw(error))
        assert raised.value is error
