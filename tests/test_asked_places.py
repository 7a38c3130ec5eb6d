"""Files and folders that a tool writes where a person says: whole, or one sentence and no half."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from folders import content, full_disk, written

from rankdistill import shell
from rankdistill.bench import results
from rankdistill.init.__main__ import main as init
from rankdistill.migrate.__main__ import main as migrate
from rankdistill.review.session import Review
from rankdistill.store.faults import put

TRL = "model_name_or_path: a/b\ndataset_name: c/d\nbeta: 0.1\nloss_type: sigmoid\n"
SET = {
    "prompt_id": "p", "split": "train", "messages": [{"role": "user", "content": "Hi"}],
    "responses": [{"text": "a", "score": 1.0}, {"text": "b", "score": 0.0}],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a ranked set, a configuration of TRL's, and files that are written over."""
    written(tmp_path / "set.jsonl", json.dumps(SET))
    written(tmp_path / "dpo.yaml", TRL)
    written(tmp_path / "there.yaml")
    written(tmp_path / "figures.json")
    return tmp_path


def review(place: Path) -> int:
    found = Review(place / "set.jsonl")
    found.ranks[0] = [1, 0]
    return shell.says_mistakes(lambda: print(found.write()))()


WRITERS: dict[str, Callable[[Path], int]] = {
    "init": lambda place: init([str(place / "project")]),
    "migrate": lambda place: migrate([str(place / "dpo.yaml"), "--to", str(place / "there.yaml")]),
    "bench": lambda place: shell.says_mistakes(results.write)(place / "figures.json", "x" * 2000),
    "review": review,
}


@pytest.mark.parametrize("room", [0, 100, 1500])
@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_sentence_and_all_is_as_before(command, room, place, capsys):
    before = content(place)
    with full_disk(min(room, 200) if command == "migrate" else room):
        assert WRITERS[command](place) == 2
    told = capsys.readouterr().err
    assert "cannot be written (File too large): " in told and told.count("\n") == 1, told
    assert content(place) == before and not (place / "project").exists()


@pytest.mark.parametrize("command", WRITERS)
def test_a_file_in_the_place_of_a_folder_is_one_sentence(command, place, capsys):
    for name in ("project", "set-reviewed"):
        written(place / name)
    for name in ("there.yaml", "figures.json"):
        (place / name).unlink()
        written(place / name / "mine")
    before = content(place)
    assert WRITERS[command](place) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: ") and content(place) == before


def test_an_empty_folder_gets_a_project_and_stays_where_there_is_no_space(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with full_disk(100):
        assert init([str(tmp_path / "empty")]) == 2
    assert list((tmp_path / "empty").iterdir()) == []
    assert init([str(tmp_path / "empty")]) == 0
    assert (tmp_path / "empty" / "recipe" / "mine.yaml").is_file()


def test_a_file_keeps_its_mode_and_a_link_leads_where_it_led(tmp_path):
    file = written(tmp_path / "folder" / "file")
    file.chmod(0o640)
    (tmp_path / "link").symlink_to(file)
    put(tmp_path / "link", b"new", "")
    assert (tmp_path / "link").is_symlink() and file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    put(tmp_path / "dangling", b"new", "")
    assert (tmp_path / "later").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    put(tmp_path / "pipe", b"figures", "")
    reader.join(10)
    assert read == [b"figures"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_what_is_in_the_place_of_a_reviewed_set_is_moved_aside(place, capsys):
    mine = place / "set-reviewed"
    mine.mkdir()
    Dataset.from_list([{"thesis": "years of work"}]).to_parquet(str(mine / "train.parquet"))
    written(mine / "notes.parquet")
    for _ in range(2):  # the second time it is a reviewed set
        assert review(place) == 0
    assert pq.read_table(mine / "train.parquet.1").column("thesis").to_pylist() == ["years of work"]
    assert (mine / "notes.parquet").read_text() == "years of work"
    assert sorted(file.name for file in mine.iterdir()) == [
        "notes.parquet", "train.parquet", "train.parquet.1",
    ]  # fmt: skip
    assert "is not as a run wrote it, so it is kept as" in capsys.readouterr().out
