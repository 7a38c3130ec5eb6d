"""What an export did not write survives the next one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from export_runs import finished_run
from folders import content, written
from test_export import logits

from rankdistill.errors import UserError
from rankdistill.export import ExportOptions, current_export, export, exporting, open_source
from rankdistill.export.__main__ import main
from rankdistill.export.place import FILES, RECORD


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "run")


def refused(run: Path, to: Path, capsys) -> str:
    """What is said of an export that is refused; nothing changes, and nothing is left beside it."""
    before, beside = content(to), sorted(to.parent.iterdir())
    assert main([str(run), "--to", str(to)]) == 2
    assert content(to) == before and sorted(to.parent.iterdir()) == beside
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--to" in said, said
    return said


# ---------------------------------------------------------------------------- the folder it goes to


def test_an_export_takes_the_place_of_an_earlier_one_and_leaves_nothing_of_it(run, tmp_path):
    to = export(open_source(run), tmp_path / "place" / "to", ExportOptions(quantize="awq-ready"))
    written(to / "chat_templates" / "old" / "x.jinja")
    record = json.loads((to / RECORD).read_text())
    assert set(record[FILES]) | {RECORD, "chat_templates/old/x.jinja"} == content(to).keys()
    record[FILES].append("chat_templates/old/x.jinja")
    (to / RECORD).write_text(json.dumps(record))
    fresh = content(export(open_source(run), tmp_path / "fresh"))
    for _ in range(2):
        assert content(export(open_source(run), to)) == fresh
    assert torch.equal(logits(to), logits(run / "model"))
    assert list(to.parent.iterdir()) == [to]


def test_what_a_person_edited_in_an_export_stays(run, tmp_path, capsys):
    to = export(open_source(run), tmp_path / "to")
    whole = content(to)
    for name in ("README.md", "Dockerfile"):
        written(to / name, f"my own {name}")
    (to / "app.py").unlink()
    for _ in range(2):  # what we wrote the last time is not taken for what is there now
        assert main([str(run), "--to", str(to)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("was edited and stays") == 2 and "README.md was edited" in said
        mine = {name: f"my own {name}" for name in ("README.md", "Dockerfile")}
        assert content(to) == {**whole, **mine}
    (to / "README.md").unlink()
    export(open_source(run), to)
    assert content(to) == {**whole, "Dockerfile": "my own Dockerfile"}


def test_another_model_s_card_is_written_where_nobody_edited_it(run, tmp_path):
    other = finished_run(tmp_path / "other", "seed=3", title="Another")
    to = export(open_source(run), tmp_path / "to")
    assert content(export(open_source(other), to)) == content(
        export(open_source(other), tmp_path / "fresh")
    )


OURS = {"version": 1, "model": "0" * 64, "precision": "auto", "quantize": "none"}
FOREIGN = [
    "",
    "[]",
    "null",
    "{}",
    '{"version": 1}',
    '{"name": "thesis", "files": ["thesis.txt"]}',
    json.dumps({**OURS, "files": "thesis.txt"}),
    json.dumps({**OURS, "files": [1]}),
    json.dumps({**OURS, "files": ["thesis.txt"], "written": ["thesis.txt"]}),
    json.dumps({**OURS, "version": "1", "files": ["thesis.txt"]}),
    json.dumps({**OURS, "theme": "dark", "files": ["thesis.txt"]}),
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_foreign_record_makes_no_export(run, tmp_path, capsys, text):
    written(tmp_path / "to" / RECORD, text)
    written(tmp_path / "to" / "thesis.txt")
    assert "something else than an export" in refused(run, tmp_path / "to", capsys)


def test_a_record_without_a_list_is_not_enough(run, tmp_path, capsys):
    to = export(open_source(run), tmp_path / "to")
    record = json.loads((to / RECORD).read_text())
    del record[FILES]
    (to / RECORD).write_text(json.dumps(record))
    written(to / "thesis.txt")
    said = refused(run, to, capsys)
    assert "an export of an earlier version" in said and "move it away" in said


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "figures/one.png", "empty/", "link"])
def test_what_the_person_put_into_an_export_is_named(run, tmp_path, capsys, name):
    to = export(open_source(run), tmp_path / "to")
    victim = written(tmp_path / "victim" / "thesis.txt")
    if name == "link":
        (to / name).symlink_to(victim.parent)
    elif name == "empty/":
        (to / name).mkdir()
    else:
        written(to / name)
    assert f"holds '{name.split('/')[0]}" in refused(run, to, capsys)
    assert victim.is_file() and (to / name).exists()


def test_a_record_that_lists_more_than_its_folder_removes_nothing_outside(run, tmp_path, capsys):
    to = export(open_source(run), tmp_path / "to")
    thesis = written(tmp_path / "victim" / "thesis.txt")
    record = json.loads((to / RECORD).read_text())
    record[FILES] += ["../victim/thesis.txt", str(thesis), "linked", "linked/thesis.txt"]
    (to / RECORD).write_text(json.dumps(record))
    (to / "linked").symlink_to(thesis.parent)
    export(open_source(run), to)
    assert thesis.read_text() == "years of work" and not (to / "linked").exists()


def test_what_comes_while_the_new_one_is_made_survives(run, tmp_path, monkeypatch):
    to = export(open_source(run), tmp_path / "place" / "to")
    real = exporting.write_deployment

    def meanwhile(*arguments) -> None:
        written(to / "notes.txt")
        real(*arguments)

    monkeypatch.setattr(exporting, "write_deployment", meanwhile)
    with pytest.raises(UserError, match=r"holds 'notes\.txt', which the export there"):
        export(open_source(run), to)
    assert (to / "notes.txt").is_file() and (to / "model.safetensors").is_file()
    assert list(to.parent.iterdir()) == [to]


def test_a_link_is_not_followed(run, tmp_path, capsys):
    real = export(open_source(run), tmp_path / "real")
    before = content(real)
    for name, target in (("link", real), ("nowhere", tmp_path / "missing")):
        (tmp_path / name).symlink_to(target)
        assert "is a link" in refused(run, tmp_path / name, capsys)
    assert content(real) == before and (tmp_path / "link").is_symlink()


def test_an_export_of_an_earlier_version_is_served_while_it_is_current(tmp_path):
    run = finished_run(tmp_path / "run")
    to = current_export(open_source(run))
    record = json.loads((to / RECORD).read_text())
    del record[FILES]
    written(to / RECORD, json.dumps(record))
    before = content(to)
    assert current_export(open_source(run)) == to and content(to) == before
    written(to / RECORD, json.dumps({**record, "model": "another"}))
    with pytest.raises(UserError, match="move it away"):
        current_export(open_source(run))
    assert content(to).keys() == before.keys()


@pytest.mark.parametrize("name", ["README.md", "Dockerfile", RECORD])
def test_a_file_beside_the_runs_model_is_not_written_over(tmp_path, name):
    """A link to it in the export would be: the card and the deployment files have such names."""
    run = finished_run(tmp_path / "run")
    own = written(run / "model" / name)
    to = export(open_source(run), tmp_path / "to")
    assert own.read_text() == "years of work" != (to / name).read_text()
    weights = [folder / "model.safetensors" for folder in (to, run / "model")]
    assert os.path.samefile(*weights)


# ---------------------------------------------------------------------------------- killed exports


KILLED = """
import os, signal, sys
from pathlib import Path
from rankdistill.export import exporting, open_source
exporting.write_deployment = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
exporting.export(open_source(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_what_a_killed_export_left_is_removed_by_the_next(run, tmp_path):
    to = tmp_path / "place" / "export"
    assert forked.run("run_code", KILLED, str(run), str(to)).returncode == -9
    [left] = to.parent.iterdir()
    assert left.name.startswith(".export.") and (left / "model.safetensors").is_file()
    export(open_source(run), to)
    assert list(to.parent.iterdir()) == [to]


def making(folder: Path, pid: int, host: str) -> Path:
    return written(folder / RECORD, json.dumps({"making": {"pid": pid, "host": host}}))


def test_only_leftovers_of_our_form_and_of_dead_processes_go(run, tmp_path):
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = making(tmp_path / f".export.{dead.pid}", dead.pid, host)
    own = making(tmp_path / f".export.{os.getpid()}", os.getpid(), host)  # of another container
    linked = making(tmp_path / "victim", 2**22 + 7, host)
    (tmp_path / f".export.{2**22 + 7}").symlink_to(linked.parent)
    kept = [
        linked,
        making(tmp_path / f".export.{os.getppid()}", os.getppid(), host),
        making(tmp_path / f".export.{2**22 + 1}", 2**22 + 1, "another-machine"),
        making(tmp_path / f".export.{2**22 + 2}", 2**22 + 1, host),
        making(tmp_path / ".export.backup", dead.pid, host),
        making(tmp_path / f".exports.{dead.pid}", dead.pid, host),
        making(tmp_path / f"export.{dead.pid}", dead.pid, host),
        written(tmp_path / f".export.{2**22 + 3}" / "thesis.txt"),
        written(tmp_path / f".export.{2**22 + 4}" / RECORD, "{}"),
    ]
    export(open_source(run), tmp_path / "export")
    assert (
        not gone.parent.exists()
        and not own.parent.exists()
        and all(file.is_file() for file in kept)
    )
    assert (tmp_path / f".export.{2**22 + 7}").is_symlink()
