"""What the store did not write survives everything that it removes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from test_store import make_nine, rows_of

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store, key_of
from rankdistill.store.__main__ import main
from rankdistill.store.identity import is_key

KEY = "sample-0123456789abcdef"
LEFT = f"{KEY}.4711-3"
"""What a removal that was killed has left."""


def written(path: Path, text: str = "years of work") -> Path:
    """A file of the person's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def fails(partial: Partial) -> None:
    partial.shards().append(rows_of(1))
    raise RuntimeError("no teacher")


def made_and_removed(store: Store) -> None:
    """Every way to a removal: a stage completes, a damaged one is repaired, both are removed."""
    output = store.output("sample", {"seed": 1}, make_nine)
    (output.path / "model" / "weights.bin").write_bytes(b"")
    store.output("sample", {"seed": 1}, make_nine)
    with pytest.raises(RuntimeError):
        store.output("train", {}, fails)
    for key in (output.key, key_of("train", {})):
        assert store.remove(key)
        assert not store.output_path(key).exists() and not store.partial_path(key).exists()


# ------------------------------------------------------------------------------------------- trash


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A project's folder that is the store's as well."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("RANKDISTILL_HOME", ".")
    return project


def test_what_is_removed_is_nobody_elses_to_look_at(here):
    made_and_removed(Store())
    assert (here / ".trash").stat().st_mode & 0o777 == 0o700 and not any(
        (here / ".trash").iterdir()
    )


@pytest.mark.parametrize("name", ["trash", ".trash"])
def test_a_trash_folder_of_the_persons_own_keeps_what_is_in_it(here, name):
    """Names that are nearly ours, in a folder that is called like the store's."""
    near = [KEY, f"{KEY}.4711", f"{LEFT}.bak", f"x{LEFT[6:]}y", "Sample-0123456789abcdef.4711-3"]
    files = [written(here / name / folder / "file") for folder in ("keep", *near)]
    files += [written(here / name / "thesis.txt"), written(here / name / f"{KEY}.4711-9")]
    made_and_removed(Store())
    assert all(file.read_text() == "years of work" for file in files)
    assert {path.name for path in (here / name).iterdir()} == {
        file.relative_to(here / name).parts[0] for file in files
    }


@pytest.mark.parametrize("name", ["trash", ".trash"])
def test_what_a_killed_removal_left_is_removed_with_the_next(here, name):
    left = written(here / name / LEFT / "files" / "rows" / "x.jsonl")
    written(here / name / f"{key_of('sample', {})}.{os.getpid()}-0" / "x")
    Store().output("sample", {}, make_nine)
    assert not left.parents[2].exists() and list((here / name).iterdir()) == []


def test_links_in_the_trash_are_not_followed(here):
    thesis = written(here.parent / "victim" / "thesis.txt")
    for place in (here / ".trash", here / ".trash" / f"{KEY}.4711-8"):
        place.mkdir()
        (place / LEFT).symlink_to(thesis.parent)
        (place / f"{KEY}.4711-7").symlink_to(thesis)
    made_and_removed(Store())
    assert thesis.read_text() == "years of work"
    assert not (here / ".trash" / f"{KEY}.4711-8").exists()


@pytest.mark.parametrize("name", ["trash", ".trash"])
def test_a_trash_that_is_a_link_is_not_followed(here, name):
    """Its target even holds a folder that is called like one of the store's."""
    victim = here.parent / "victim"
    files = [written(victim / folder / "file") for folder in ("thesis", LEFT)]
    (here / name).symlink_to(victim)
    made_and_removed(Store())
    assert all(file.is_file() for file in files) and len(list(victim.iterdir())) == 2
    assert not list((here / "outputs").iterdir()) and not list((here / "partial").iterdir())


def test_a_trash_of_another_user_is_left_alone(here, monkeypatch):
    files = [written(here / name / LEFT / "file") for name in ("trash", ".trash")]
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    left = written(here / "partial" / LEFT / "file")
    made_and_removed(Store())
    assert all(file.is_file() for file in files)
    # In its place the folder is removed where it stood, as what a kill has left there.
    assert not left.parent.exists()
    assert not list((here / "outputs").iterdir()) and not list((here / "partial").iterdir())


def test_a_file_that_is_called_trash_stops_nothing(here):
    file = written(here / ".trash")
    made_and_removed(Store())
    assert file.read_text() == "years of work"


# ------------------------------------------------------------------------- store list, store remove


def test_names_of_keys():
    ours = [KEY, key_of("reward_model", {}), key_of("a1_b", {})]
    assert all(map(is_key, ours))
    near = ["", "sample", "sample-0123456789abcde", f"{KEY}0", f"{KEY}\n", KEY.upper(), LEFT]
    near += ["0123456789abcdef", "-0123456789abcdef", "a-b-0123456789abcdef", f"../{KEY}", "2026-1"]
    assert not any(map(is_key, near))


@pytest.fixture
def project(here) -> dict[str, Path]:
    """Folders of a Hydra project in `outputs/` and others in `partial/`, beside one output each."""
    store = Store()
    store.output("sample", {"seed": 1}, make_nine)
    with pytest.raises(RuntimeError):
        store.output("train", {}, fails)
    thesis = written(here.parent / "victim" / "thesis.txt")
    for place in ("outputs", "partial"):
        (here / place / KEY).symlink_to(thesis.parent)
    return {
        "hydra": written(here / "outputs" / "2026-11-28" / "run1" / "model.bin"),
        "near": written(here / "outputs" / f"{KEY}-old" / "model.bin"),
        "partial": written(here / "partial" / "mine" / "model.bin"),
        "file": written(here / "outputs" / "sample-0123456789abcde0"),
        "linked": thesis,
    }


OPTIONS = [
    ["--all"],
    ["--older-than", "0s"],
    ["--partial"],
    ["--partial", "--older-than", "0s", "--all"],
    ["--stage", "sample"],
]


@pytest.mark.parametrize("options", OPTIONS)
def test_no_option_removes_what_is_not_ours(project, here, capsys, options):
    assert main(["remove", *options, "--yes"]) == 0
    assert capsys.readouterr().out.startswith("Removed ")
    assert all(file.read_text() == "years of work" for file in project.values())
    assert (here / "outputs" / KEY).is_symlink() and (here / "partial" / KEY).is_symlink()


@pytest.mark.parametrize(
    "name",
    ["2026-11-28", "outputs/2026-11-28", f"{KEY}-old", "mine", KEY, "sample-0123456789abcde0"],
)
def test_what_is_not_ours_is_not_removed_by_its_name_either(project, here, capsys, name):
    assert main(["remove", name, "--yes"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search("is not ours: an output is a folder, not a link|No output '", said)
    assert all(file.read_text() == "years of work" for file in project.values())
    assert (here / "outputs" / KEY).is_symlink() and (here / "partial" / KEY).is_symlink()


def test_list_counts_what_is_not_ours_in_one_line(project, here, capsys):
    assert main(["list"]) == 0
    *_, total, others = capsys.readouterr().out.splitlines()
    assert total.startswith("1 output, ") and "1 unfinished" in total
    assert others == (
        f"5 folders not ours, never removed: outputs/2026-11-28, outputs/{KEY}, "
        f"outputs/{KEY}-old, ..."
    )


def test_list_where_nothing_is_ours(here, capsys):
    written(here / "outputs" / "a\nb" / "model.bin")
    assert main(["list"]) == 0
    none, others = capsys.readouterr().out.splitlines()
    assert none == f"No outputs in {here}."
    assert others == r"1 folder not ours, never removed: 'outputs/a\nb'"
    assert main(["remove", "--all", "--yes"]) == 0
    assert (here / "outputs" / "a\nb" / "model.bin").is_file()


def test_verify_reads_only_what_is_ours(project, capsys):
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 output verified, 0 damaged"


def test_the_api_removes_by_key_only(project, here):
    store = Store()
    for name in ("2026-11-28", "../outputs/2026-11-28", "", "."):
        with pytest.raises(ValueError, match="no key of a store"):
            store.remove(name)
    assert store.remove(KEY)
    assert (here / "outputs" / KEY).is_symlink() and project["linked"].is_file()


# ------------------------------------------------------------------------------ links while making


@pytest.mark.parametrize("place", ["outputs", "partial", "partial/files", "partial/scratch"])
def test_a_stage_is_not_made_through_a_link(place):
    """A repair, a sweep or a checkpoint's rotation would remove files where the link leads."""
    store, key = Store(), key_of("sample", {})
    victim = store.root / "victim"
    names = ("thesis.txt", "manifest.json", ".tmp-12-0", "rows/.tmp-12-0", "scratch/x")
    files = [written(victim / name) for name in names]
    outer, _, inner = place.partition("/")
    link = store.root / outer / key / inner
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(UserError, match=f"{link} is a link, and the store removes files only in"):
        store.output("sample", {}, lambda partial: pytest.fail("made"))
    assert all(file.read_text() == "years of work" for file in files)
    link.unlink()
    assert store.output("sample", {}, make_nine).rows() == rows_of(*range(9))
    assert all(file.read_text() == "years of work" for file in files)


def test_rows_are_not_put_through_a_link(tmp_path):
    """They would replace those of another store."""
    other = Partial(tmp_path / "other", tmp_path)
    other.shards().append(rows_of(1, 2))
    own = tmp_path / "own"
    own.mkdir()
    (own / "rows").symlink_to(other.path / "rows")
    with pytest.raises(UserError, match="own/rows is a link"):
        Partial(own, tmp_path).shards().put(rows_of(3))
    assert other.shards().rows() == rows_of(1, 2)


def test_only_temporaries_of_our_own_form_are_swept():
    store, key = Store(), key_of("sample", {})
    partial = store.partial_path(key)
    victim = written(store.root / "victim" / ".tmp-12-0")
    near = [written(partial / "files" / "rows" / name) for name in (".tmp-mine", ".tmp-1-2.txt")]
    swept = written(partial / "files" / "rows" / ".tmp-12-0")
    (partial / "files" / "linked").symlink_to(victim.parent)

    def look(partial: Partial) -> None:
        assert all(file.is_file() for file in near) and not swept.exists()

    store.output("sample", {}, look)
    assert victim.read_text() == "years of work"
