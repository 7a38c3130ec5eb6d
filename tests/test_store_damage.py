"""Outputs that are damaged, or removed while in use: only what is damaged is made again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from report_rows import run_report
from safetensors.torch import load_file
from test_store import make_nine, rows_of
from transformers import AutoConfig

from rankdistill.errors import UserError
from rankdistill.models import identity, load_model, load_tokenizer, locate
from rankdistill.report import write_report
from rankdistill.store import Partial, Store, key_of
from rankdistill.store.attempt import read_record
from rankdistill.store.faults import reading
from rankdistill.store.files import link


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


def test_weights_are_not_read_through_where_a_shard_is_damaged(monkeypatch):
    """That would take minutes."""
    output = Store().output("sample", {}, make_nine)
    truncate(next((output.path / "rows").iterdir()))
    read = "rankdistill.store.manifest.sha256_of"
    monkeypatch.setattr(read, lambda path: pytest.fail(f"{path} was read"))
    assert Store().output("sample", {}, make_nine).manifest["counts"] == {"made": 3}


def test_checkpoints_whose_removal_was_killed_are_none_of_the_next_attempt_s():
    output = Store().output("sample", {}, make_nine)
    (Store().partial_path(output.key) / "scratch" / "checkpoint-1").mkdir(parents=True)
    truncate(next((output.path / "rows").iterdir()))
    seen: list[list[Path]] = []

    def make(partial: Partial) -> dict[str, int]:
        seen.append(list(partial.scratch.iterdir()))
        return make_nine(partial)

    assert Store().output("sample", {}, make).manifest["counts"] == {"made": 3} and seen == [[]]


def test_damage_is_repaired_where_outputs_alone_were_copied_into_a_store():
    output = Store().output("sample", {}, make_nine)
    for name in ("partial", "locks"):
        shutil.rmtree(Store().root / name)
    truncate(next((output.path / "rows").iterdir()))
    assert Store().output("sample", {}, make_nine).manifest["counts"] == {"made": 3}


def test_weights_that_were_copied_over_in_a_run_folder_are_seen(tmp_path):
    """`cp` writes into the file that is there, which is the store's as well."""
    store = Store()
    output = store.output("train", {}, make_nine)
    weights, linked = output.path / "model" / "weights.bin", tmp_path / "weights.bin"
    sealed = weights.read_bytes()
    link(weights, linked)
    os.utime(weights)  # written again as they were, or copied in another order
    assert store.find(output.key) == output
    linked.write_bytes(bytes(len(sealed)))
    assert store.find(output.key) is None
    again = store.output("train", {}, make_nine)
    assert (again.path / "model" / "weights.bin").read_bytes() == sealed
    assert linked.read_bytes() == bytes(len(sealed))


def test_a_flipped_bit_in_the_manifest_is_seen():
    store = Store()
    output = store.output("train", {}, make_nine)
    path = output.path / "manifest.json"
    path.write_text(path.read_text().replace('"made": 9', '"made": 8'))
    assert store.find(output.key) is None
    assert store.output("train", {}, make_nine).manifest["counts"] == {"made": 0}


def test_an_output_that_was_continued_with_another_version_has_both(monkeypatch):
    def of(**versions: str) -> None:
        monkeypatch.setattr("rankdistill.store.manifest.versions", lambda: versions)

    def stop(partial: Partial) -> None:
        partial.shards().append(rows_of(1))
        raise KeyboardInterrupt

    store = Store()
    of(torch="2.12.0")
    for stopped in (stop, lambda partial: {}["nothing is written"]):
        with pytest.raises((KeyboardInterrupt, KeyError)):
            store.output("sample" if stopped is stop else "train", {}, stopped)
    of(torch="2.13.0", vllm="0.19")
    with pytest.raises(KeyboardInterrupt):
        store.output("sample", {}, stop)
    for stage, torch in (("sample", "2.12.0 and 2.13.0"), ("train", "2.13.0")):
        output = store.output(stage, {}, make_nine)
        assert output.manifest["versions"] == {"torch": torch, "vllm": "0.19"}
    of(torch="2.14.1")
    sorted((output.path / "rows").iterdir())[1].unlink()
    assert store.output("train", {}, make_nine).manifest["versions"] == {
        "torch": "2.13.0 and 2.14.1",
        "vllm": "0.19",
    }
    (output.path / "manifest.json").unlink()  # which had them
    assert store.output("train", {}, make_nine).manifest["versions"] == {"torch": "2.14.1"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_of_the_store_that_lacks_a_file_is_told_as_one_that_is_made_anew(name):
    def make(partial: Partial) -> None:
        (partial.path / "model").mkdir()
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            (partial.path / "model" / file).write_text("{}")
        (partial.path / "history.json").write_text("[]")

    store = Store()
    output = store.output("train", {}, make)
    (output.path / "history.json").unlink()  # not the model's
    assert locate(str(output.path / "model"))
    (output.path / "model" / name).unlink()
    told = f"output {output.key} in the store .* lacks its file model/{name}: run the command again"
    for asked in (locate, identity):
        with pytest.raises(UserError, match=told):
            asked(str(output.path / "model"))
    assert locate(str(store.output("train", {}, make).path / "model"))


def test_an_output_that_was_removed_is_no_damaged_one_and_no_model_that_never_was():
    store = Store()
    output = store.output("sample", {}, make_nine)
    assert store.remove(output.key)
    for read in (output.rows, lambda: locate(str(output.path / "model"))):
        with pytest.raises(UserError, match=f"{output.key} was removed from the store"):
            read()


READERS = {
    "text": lambda output: (output.path / "history.json").read_text(),
    "rows": lambda output: output.rows(),
    "located": lambda output: locate(str(output.path / "model")),
    "tokenizer": lambda output: load_tokenizer(str(output.path / "model")),
    "model": lambda output: load_model(str(output.path / "model")),
    "safetensors": lambda output: load_file(output.path / "model" / "model.safetensors"),
    "transformers": lambda output: AutoConfig.from_pretrained(output.path / "model"),
    "report": lambda output: write_report(
        run_report(4), output.path.parents[2] / "run", {"model": output.path / "model"}
    ),
    "arrow": lambda output: pa.OSFile(str(output.path / "history.json")),
}
"""What a run does with an output, by libraries each of which has words of its own."""


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("way", ["store remove", "rm -r", "rm"])
def test_what_is_removed_while_it_is_read_is_one_sentence(read, way, tiny_dir):
    def make(partial: Partial) -> None:
        shutil.copytree(tiny_dir, partial.path / "model")
        partial.shards().append(rows_of(1, 2))
        (partial.path / "history.json").write_text("[]")

    store = Store()
    output = store.output("train", {}, make)
    told = f"output {output.key} was removed from the store {store.root} while it was in use: run"
    if way == "store remove":
        assert store.remove(output.key)
    elif way == "rm -r":
        shutil.rmtree(output.path)
    else:
        for path in [path for path in output.path.rglob("*.*") if path.name != "manifest.json"]:
            path.unlink()
        told = f"output {output.key} in the store {store.root} lacks its file .*: run the command"
    with pytest.raises(UserError, match=told), reading(store.root):
        read(output)
    with pytest.raises(UserError, match=told):  # and is what the record of the attempt says
        store.output("evaluate", {}, lambda partial: read(output))
    assert "run the" in read_record(store.partial_path(key_of("evaluate", {})))["error"]
    assert read(store.output("train", {}, make)) is not None


def test_an_error_about_an_output_that_is_whole_stays_what_it_is():
    store = Store()
    output = store.output("sample", {}, make_nine)
    for error in (UserError(f"{output.path} is no model."), OSError(5, "bad", str(output.path))):
        with pytest.raises(type(error)) as raised, reading(store.root):
            raise error
        assert raised.value is error
