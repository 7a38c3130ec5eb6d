"""What a run did not write into its run folder survives the next run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from folders import content, written
from test_pipeline_faults import QUICK
from tiny_run import run_here

from rankdistill.errors import UserError
from rankdistill.store.written import (
    METRICS,
    RECORD,
    begin,
    check_run,
    is_metrics,
    is_run_folder,
    replace_folder,
)

OLD = {"config.json": "old", "model-1.safetensors": "weights", "templates/chat.jinja": "old"}
NEW = {"config.json": "new", "model.safetensors": "other weights"}


@pytest.fixture
def sources(tmp_path) -> tuple[Path, Path]:
    """The models of two runs."""
    for name, files in (("old", OLD), ("new", NEW)):
        for file, text in files.items():
            written(tmp_path / "store" / name / file, text)
    return tmp_path / "store" / "old", tmp_path / "store" / "new"


@pytest.fixture
def place(tmp_path, sources) -> Path:
    """`model` of a run folder, as the first run left it."""
    (tmp_path / "run").mkdir()
    assert replace_folder(sources[0], tmp_path / "run" / "model") is None
    return tmp_path / "run" / "model"


@pytest.mark.parametrize("name", [RECORD, "metrics.json"])
def test_either_file_makes_a_folder_that_of_a_run(tmp_path, name):
    assert not is_run_folder(tmp_path)
    (tmp_path / name).touch()
    assert is_run_folder(tmp_path)


def test_a_folder_without_a_run_and_one_of_an_unfinished_run_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="There is no run in"):
        check_run(tmp_path)
    (tmp_path / RECORD).touch()
    with pytest.raises(UserError, match=r"is not finished \(no metrics.json\)"):
        check_run(tmp_path)


@pytest.mark.parametrize("put", [Path.mkdir, written])
def test_from_its_beginning_a_run_reads_as_unfinished_whatever_had_the_name(tmp_path, put):
    put(tmp_path / METRICS)
    assert begin(tmp_path, [], []) == [(tmp_path / METRICS, tmp_path / f"{METRICS}.1")]
    assert not (tmp_path / METRICS).exists() and (tmp_path / f"{METRICS}.1").exists()


def test_figures_of_a_run_are_known_by_their_keys():
    whole = dict.fromkeys(("format", "recipe", "stages", "models"))
    assert is_metrics(whole) and is_metrics({**whole, "seconds": 1.0})
    parts = [{key: None for key in whole if key != left} for left in whole]
    assert not any(map(is_metrics, [*parts, [*whole], None]))


def test_a_run_replaces_what_the_last_one_wrote(place, sources):
    assert content(place) == OLD
    weights = "model-1.safetensors"
    assert (place / weights).stat().st_ino == (sources[0] / weights).stat().st_ino
    for source, files in ((sources[1], NEW), (sources[1], NEW), (sources[0], OLD)):
        assert replace_folder(source, place) is None
        assert content(place) == files
    assert {path.name for path in place.parent.iterdir()} == {"model", RECORD}
    assert (content(sources[0]), content(sources[1])) == (OLD, NEW)


def test_folders_of_one_run_have_one_record(place, sources):
    assert replace_folder(sources[1], place.with_name("reward_model")) is None
    assert replace_folder(sources[1], place) is None
    assert replace_folder(sources[0], place.with_name("reward_model")) is None
    assert (content(place), content(place.with_name("reward_model"))) == (NEW, OLD)


@pytest.mark.parametrize("name", ["notes.md", "templates/mine.jinja", ".git/config"])
def test_a_file_of_the_persons_stays_where_it_is(place, sources, name):
    file = written(place / name)
    for source, files in ((sources[1], NEW), (sources[0], OLD)):
        assert replace_folder(source, place) is None
        assert content(place) == {**files, name: "years of work"}
    assert file.is_file()


@pytest.mark.parametrize("inner", ["thesis.txt", "config.json", "model.safetensors"])
def test_a_folder_that_no_run_wrote_is_moved_aside(tmp_path, sources, inner):
    written(tmp_path / "model" / inner)
    written(tmp_path / "model.1")
    assert replace_folder(sources[1], tmp_path / "model") == tmp_path / "model.2"
    assert content(tmp_path / "model.2") == {inner: "years of work"}
    assert (tmp_path / "model.1").is_file()
    assert content(tmp_path / "model") == NEW
    assert replace_folder(sources[1], tmp_path / "model") is None


def test_an_empty_folder_is_taken(tmp_path, sources):
    (tmp_path / "model").mkdir()
    assert replace_folder(sources[1], tmp_path / "model") is None
    assert content(tmp_path / "model") == NEW


@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_link_in_its_place_is_not_followed(place, sources, kind, recorded):
    """Even where it leads to a folder of ours, with the very files that the record names."""
    victim = place.parent.parent / "victim"
    if kind == "folder":
        place.rename(victim)
    elif kind == "file":
        written(victim)
    if place.is_dir():
        place.rename(place.with_name("away"))
    if not recorded:
        (place.parent / RECORD).unlink()
    place.symlink_to(victim)
    aside = replace_folder(sources[1], place)
    assert aside == place.with_name("model.1") and aside.is_symlink()
    assert content(place) == NEW and not place.is_symlink()
    if kind == "folder":
        assert content(victim) == OLD
    elif kind == "file":
        assert victim.read_text() == "years of work"
    else:
        assert not victim.exists()


def test_a_file_in_its_place_is_moved_aside(tmp_path, sources):
    file = written(tmp_path / "model")
    aside = replace_folder(sources[1], file)
    assert aside is not None and aside.read_text() == "years of work"
    assert content(tmp_path / "model") == NEW


CHANGES = {
    "a file of ours that the person rewrote": "config.json",
    "one whose name the next run wants": "model.safetensors",
    "one that no run will write again": "templates/chat.jinja",
}


@pytest.mark.parametrize("name", CHANGES.values(), ids=CHANGES.keys())
def test_a_folder_with_a_file_that_is_not_as_we_wrote_it_is_moved_aside(place, sources, name):
    written(place / name)
    notes = written(place / "notes.md")
    assert replace_folder(sources[1], place) == place.with_name("model.1")
    kept = {**OLD, name: "years of work", notes.name: "years of work"}
    assert content(place.with_name("model.1")) == kept
    assert content(place) == NEW


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "templates"])
def test_links_inside_are_not_followed(place, sources, name):
    victim = place.parent.parent / "victim"
    thesis = written(victim / "chat.jinja")
    if name == "templates":
        (place / name / "chat.jinja").unlink()
        (place / name).rmdir()
    else:
        (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(victim if name == "templates" else thesis)
    assert replace_folder(sources[1], place) == place.with_name("model.1")
    assert thesis.read_text() == "years of work" and len(list(victim.iterdir())) == 1
    assert content(place) == NEW


def test_what_the_person_removed_is_not_missed(place, sources):
    (place / "config.json").unlink()
    assert replace_folder(sources[1], place) is None
    assert content(place) == NEW


FOREIGN = [
    "",
    "[]",
    '{"written": {"model": {"config.json": null}}}',
    '{"version": 2, "written": {"model": {"config.json": null}}}',
    '{"version": 1, "written": {"model": ["config.json"]}}',
    '{"version": 1, "written": {"model": {"../victim/thesis.txt": null}}}',
    '{"version": 1, "written": {"model": {"/etc/hostname": null}}}',
    '{"version": 1, "written": {"model": {"": null}}}',
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_record_that_we_did_not_write_makes_nothing_ours(tmp_path, sources, text):
    victim = written(tmp_path / "victim" / "thesis.txt")
    file = written(tmp_path / "run" / "model" / "config.json")
    written(tmp_path / "run" / RECORD, text)
    aside = replace_folder(sources[1], file.parent)
    assert aside is not None and content(aside) == {"config.json": "years of work"}
    assert (tmp_path / "run" / f"{RECORD}.1").read_text() == text
    assert victim.is_file()


@pytest.mark.parametrize("copied", range(3))
def test_what_a_killed_run_left_is_replaced(place, sources, monkeypatch, copied):
    """Wherever the kill came; half a file is ours as well."""
    notes = written(place / "notes.md")

    def copy(source: Path, to: Path) -> None:
        if copied == len(list(place.glob("*"))) - 1:
            to.write_text("ha")
            raise KeyboardInterrupt
        os.link(source, to)

    with monkeypatch.context() as patched:
        patched.setattr("rankdistill.store.written._copy", copy)
        if copied < len(NEW):
            with pytest.raises(KeyboardInterrupt):
                replace_folder(sources[1], place)
    assert replace_folder(sources[0], place) is None
    assert content(place) == {**OLD, notes.name: "years of work"}


def test_a_project_of_the_persons_own_as_the_run_folder(monkeypatch, tmp_path, teacher, capsys):
    thesis = written(tmp_path / "victim" / "thesis.txt")
    written(tmp_path / "run" / "model" / "weights.bin")
    (tmp_path / "run" / "ranked").symlink_to(thesis.parent)
    top = ["metrics.json", "config.yaml", "answers.jsonl", "report.html"]
    for name in top:
        written(tmp_path / "run" / name)
    arguments = [*QUICK, f"teacher.path={teacher}"]
    folder = run_here(monkeypatch, tmp_path, *arguments)
    said = capsys.readouterr().out
    assert said.count("so it is kept as") == 6
    assert all((folder / f"{name}.1").read_text() == "years of work" for name in top)
    for name in ("model", "ranked", *top):
        assert f"run/{name} is not as a run wrote it, so it is kept as run/{name}.1\n" in said
    assert content(folder / "model.1") == {"weights.bin": "years of work"}
    assert (folder / "ranked.1").is_symlink() and thesis.read_text() == "years of work"
    assert json.loads((folder / RECORD).read_text())["written"].keys() == {".", "model", "ranked"}

    notes = [written(folder / name / "notes.md") for name in ("model", "ranked")]
    run_here(monkeypatch, tmp_path, *arguments)
    assert "kept as" not in capsys.readouterr().out
    assert all(file.read_text() == "years of work" for file in notes)
    assert not (folder / "model.2").exists()
