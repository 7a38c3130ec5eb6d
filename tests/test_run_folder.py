"""A run folder is of one run: whole or unfinished, and its figures are of the model beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from export_runs import config_yaml
from folders import content, full_disk, written
from report_rows import run_report
from tiny_models import build_model, build_tokenizer
from tiny_run import refusal

from rankdistill import report as reports
from rankdistill.compare.__main__ import main as compare
from rankdistill.diff.__main__ import main as diff
from rankdistill.errors import UserError
from rankdistill.export import open_source
from rankdistill.export.__main__ import main as export_command
from rankdistill.models import save_model
from rankdistill.rank.__main__ import main as rank
from rankdistill.report import write_report
from rankdistill.report.__main__ import main as render
from rankdistill.store.locks import is_held
from rankdistill.store.written import LOCK, RECORD, check_run, one_run_in


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """What two runs hand to their run folders."""
    found: dict[str, dict[str, Path]] = {}
    for number, name in enumerate(("old", "new")):
        folder = tmp_path_factory.mktemp(name)
        save_model(build_model(layers=1, seed=number), build_tokenizer(), folder / "model")
        (folder / "ranked").mkdir()
        response = {"text": name, "score": 1.0, "rank": 0}
        rows = [
            {
                "prompt_id": "p", "split": "train",
                "messages": [{"role": "user", "content": "Hi"}],
                "responses": [response, {"text": "no", "score": 0.0, "rank": 1}],
            }
        ]  # fmt: skip
        Dataset.from_list(rows).to_parquet(str(folder / "ranked" / "train.parquet"))
        found[name] = {part: folder / part for part in ("model", "ranked")}
    return found


def write(folder: Path, name: str, sources: dict[str, dict[str, Path]]) -> None:
    report = run_report(4, title=name, config_yaml=config_yaml())
    write_report(report, folder, sources[name])


@pytest.fixture(scope="module")
def old_run(sources: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write(folder, "old", sources)
    return folder


@pytest.fixture
def run(tmp_path: Path, old_run: Path) -> Path:
    """A finished one."""
    return Path(shutil.copytree(old_run, tmp_path / "run"))


@pytest.fixture
def quick_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is written when, and not of what is in it."""

    def metrics_of(report: Any) -> dict[str, Any]:
        return {"format": 2, "recipe": "rrhf", "title": report.title, "stages": [], "models": {}}

    monkeypatch.setattr(reports, "metrics_of", metrics_of)
    pages = {"report.md": b"page" * 9, "report.html": b"page" * 99}
    monkeypatch.setattr(reports, "_pages", lambda *_: pages)


# ---------------------------------------------------------------------------------- kills and locks


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the process, as it were, before the change of the file system with a number."""
    left = [number]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def act(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return change(*given, **more)

        return act

    with monkeypatch.context() as patched:
        for name in ("replace", "rename", "link", "unlink"):
            patched.setattr(os, name, counted(getattr(os, name)))
        yield


def test_a_kill_between_any_two_writes_leaves_nothing_that_reads_as_finished(
    run: Path,
    sources: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: Any,
    quick_pages: None,
) -> None:
    weights = {n: (s["model"] / "model.safetensors").read_bytes() for n, s in sources.items()}
    seen, number = [], 0
    while "new" not in seen:
        folder = Path(shutil.copytree(run, tmp_path / f"killed-{number}"))
        (folder / LOCK).unlink(missing_ok=True)
        with killed_at(number, monkeypatch), suppress(KeyboardInterrupt):
            write(folder, "new", sources)
        try:
            source = open_source(folder)
        except UserError as error:
            assert "is not finished (no metrics.json)" in str(error)
            seen.append("unfinished")
        else:
            metrics: Any = source.metrics
            name = "new" if metrics["title"] == "new" else "old"
            assert (folder / "model" / "model.safetensors").read_bytes() == weights[name]
            seen.append(name)
        write(folder, "new", sources)  # and the next run finds all that is left to be ours
        assert {p.name for p in folder.iterdir() if p.suffix == ".1"} == set()
        number += 1
    assert seen[0] == "old" and seen.count("unfinished") > 15, seen


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with one_run_in(tmp_path / "run"):
        told = r"Another run is writing to .*run: wait .* hydra\.run"
        with pytest.raises(UserError, match=told), one_run_in(tmp_path / "run"):
            pass
        with one_run_in(tmp_path / "other"):
            pass
    with one_run_in(tmp_path / "run"):
        pass


@pytest.mark.parametrize("code", [37, 95])  # ENOLCK, EOPNOTSUPP
def test_a_file_system_without_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    told = r"cannot lock files \(.*\): give another run folder"
    with pytest.raises(UserError, match=told), one_run_in(tmp_path / "run"):
        pass
    # What a refused command made is removed next, and this is asked for it: no second sentence.
    assert not is_held(tmp_path / "run" / LOCK)


# -------------------------------------------------------------------------- another model beside it


def other_model(run: Path, sources: dict[str, dict[str, Path]]) -> None:
    (run / "model" / "model.safetensors").unlink()
    shutil.copy(sources["new"]["model"] / "model.safetensors", run / "model")


def no_weights(run: Path, sources: Any) -> None:
    (run / "model" / "model.safetensors").unlink()


def other_ranking(run: Path, sources: dict[str, dict[str, Path]]) -> None:
    (run / "ranked" / "train.parquet").unlink()
    shutil.copy(sources["new"]["ranked"] / "train.parquet", run / "ranked")


def unfinished(run: Path, sources: Any) -> None:
    (run / "metrics.json").unlink()


COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "export": lambda run, to: export_command([str(run), "--to", str(to / "export")]),
    "compare": lambda run, to: compare([str(run), str(to / "twin"), "--to", str(to / "c")]),
    "diff": lambda run, to: diff([str(to / "twin"), str(run)]),
    "rank": lambda run, to: rank([str(run), str(to / "pairs.jsonl")]),
    "rank of the set": lambda run, to: rank([str(run / "ranked"), str(to / "pairs.jsonl")]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_figures_of_another_model_are_refused(
    run: Path, sources: Any, tmp_path: Path, capsys: Any, command: str
) -> None:
    shutil.copytree(run, tmp_path / "twin")
    assert COMMANDS[command](run, tmp_path) == 0
    before = {path.name for path in tmp_path.iterdir()}
    of_rank = command.startswith("rank")
    for damage in (other_ranking,) if of_rank else (other_model, no_weights):
        damage(run, sources)
        capsys.readouterr()
        assert COMMANDS[command](run, tmp_path) == 2
        told = capsys.readouterr().err
        assert "is not the file that the figures in" in told and told.count("\n") == 1, told
    unfinished(run, sources)
    assert COMMANDS[command](run, tmp_path) == 2
    told = capsys.readouterr().err
    assert ("is not finished" in told or "no metrics.json" in told) or command == "compare"
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("config.yaml", None, "there is no config.yaml in"),
        ("config.yaml", b"student: [", "is not a configuration"),
        ("config.yaml", b"student: \xff", "is not a configuration"),
        ("config.yaml", b"- student", "is not the configuration of a run"),
        ("metrics.json", b'{"format": 2}', "is not of format 2"),
        ("metrics.json", b"[2]", "is not of format 2"),
    ],
)
def test_a_file_of_a_run_that_is_none_is_one_sentence(
    run: Path, tmp_path: Path, capsys: Any, file: str, content: bytes | None, why: str
) -> None:
    shutil.copytree(run, tmp_path / "twin")
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    for name in ("export", "ranked", "compare"):
        assert WRITERS[name](run, tmp_path) == 2, name
        told = capsys.readouterr().err
        assert why in told and told.count("\n") == 1, told


@pytest.mark.parametrize("mistake", ["teacher.path=./nowhere", "score.timeout_s=0"])
def test_a_refused_command_changes_nothing_in_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, mistake: str
) -> None:
    written(tmp_path / "run" / "metrics.json", "{}")
    written(tmp_path / "run" / ".hydra" / "overrides.yaml", "- objective=dpo")
    for name in (".hydra/config.yaml", ".hydra/hydra.yaml"):
        written(tmp_path / "run" / name)
    (tmp_path / "run" / LOCK).touch()
    before = content(tmp_path / "run")
    recipe = "problems" if "timeout" in mistake else "likelihood"
    sampler = "sample.sampler=transformers"  # auto has a line where vLLM is not installed
    refusal(monkeypatch, capsys, tmp_path, f"recipe={recipe}", "objective=rrhf", sampler, mistake)
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["rankdistill.log", ".hydra/overrides.yaml"])
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
def test_a_pipe_in_the_place_of_what_is_written_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str, put: Any
) -> None:
    place = tmp_path / "run" / name
    place.parent.mkdir(parents=True)
    put(place)
    told = refusal(monkeypatch, capsys, tmp_path, "recipe=likelihood")
    assert f"{place}, which a run writes to, is no file: move it away" in told


def test_a_report_needs_the_configuration(run: Path, capsys: Any) -> None:
    pages = [run / "report.md", run / "report.html"]
    before = [page.read_bytes() for page in pages]
    for spoil in (lambda file: file.write_bytes(b"\xff"), Path.unlink):
        spoil(run / "config.yaml")
        assert render([str(run)]) == 2
        assert "config.yaml' (the run's configuration) can't be read" in capsys.readouterr().err
    assert [page.read_bytes() for page in pages] == before


def test_an_export_needs_to_know_whose_its_model_is(run: Path, tmp_path: Path, capsys: Any) -> None:
    (run / "config.yaml").write_text("student: 5\nteacher: {path: a}\nobjective: {}\n")
    for name in ("export", "ranked"):
        assert WRITERS[name](run, tmp_path) == 2
        assert "is not the configuration of a run" in capsys.readouterr().err


def test_a_file_of_ones_own_beside_the_model_changes_nothing(run: Path) -> None:
    written(run / "model" / "notes.md")
    check_run(run, "model", "ranked")
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["written"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "model" / "config.json").write_text("{}")
    check_run(run, "model")  # a run of an earlier version, whose files have no digests


# ------------------------------------------------------------------------------- what is left of it


def test_what_the_run_before_wrote_and_this_one_does_not_goes(
    run: Path, sources: Any, quick_pages: None
) -> None:
    notes = [written(run / name) for name in ("notes.md", "ranked/notes.md", "data/train.parquet")]
    edited = written(run / "report.md")
    write_report(run_report(4, groups={}, title="new"), run, {"model": sources["new"]["model"]})
    assert not (run / "answers.jsonl").exists() and not (run / "ranked" / "train.parquet").exists()
    assert all(file.read_text() == "years of work" for file in notes)
    assert (run / "report.md.1").read_text() == "years of work" != edited.read_text()
    assert not (run / "report.html.1").exists()


def test_files_of_an_earlier_version_are_replaced(
    run: Path, sources: Any, quick_pages: None
) -> None:
    record = json.loads((run / RECORD).read_text())
    del record["written"]["."]
    (run / RECORD).write_text(json.dumps(record))
    write(run, "new", sources)
    assert not list(run.glob("*.1"))
    (run / RECORD).unlink()
    (run / "metrics.json").write_text('{"accuracy": 1}')  # of another program
    write(run, "new", sources)
    assert (run / "metrics.json.1").read_text() == '{"accuracy": 1}'
    assert {path.name for path in run.glob("*.1")} >= {"config.yaml.1", "report.html.1", "model.1"}


# ------------------------------------------------------------------------------ disks without space


WRITERS: dict[str, Callable[[Path, Path], int]] = {
    **{name: COMMANDS[name] for name in ("export", "compare")},
    "ranked": lambda run, to: export_command([str(run), "--ranked", "--to", str(to / "ranked")]),
    "diff": lambda run, to: diff([str(run), str(to / "twin"), "--to", str(to / "page.html")]),
    "rank": lambda run, to: rank([str(run), str(to / "pairs.jsonl")]),
    "rank parquet": lambda run, to: rank([str(run), str(to / "pairs.parquet")]),
    "report": lambda run, to: render([str(run)]),
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    run: Path, tmp_path: Path, capsys: Any, command: str
) -> None:
    shutil.copytree(run, tmp_path / "twin")
    before = content(tmp_path)
    with full_disk(100):
        assert WRITERS[command](run, tmp_path) == 2
    told = capsys.readouterr().err
    assert "cannot be written (File too large): " in told and told.count("\n") == 1, told
    after = content(tmp_path)
    changed = {n for n in after if after[n] != before.get(n) and not n.startswith("home/")}
    assert {Path(name).name for name in changed} <= {RECORD}, changed


def test_a_full_disk_in_the_run_folder_is_one_sentence(
    run: Path, sources: Any, quick_pages: None
) -> None:
    for room in (100, 900, 4000):
        with full_disk(room), pytest.raises(UserError, match=r"run' cannot be written \(File too"):
            write(run, "new", sources)
        assert not (run / "metrics.json").exists() and not list(run.rglob(".tmp-*"))
    write(run, "new", sources)
    check_run(run, "model", "ranked")


@pytest.mark.parametrize("command", [name for name in WRITERS if name != "report"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    run: Path, tmp_path: Path, capsys: Any, command: str
) -> None:
    shutil.copytree(run, tmp_path / "twin")
    for name in ("export", "ranked", "c", "page.html", "pairs.jsonl", "pairs.parquet"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "mine")
    if command == "compare":
        shutil.rmtree(tmp_path / "c")
        written(tmp_path / "c")
    assert WRITERS[command](run, tmp_path) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told
    assert (tmp_path / "pairs.jsonl" / "mine").is_file()


def test_a_ranked_set_of_an_unfinished_run_is_no_start(
    run: Path, sources: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    other_ranking(run, sources)
    given = ["recipe=ranked_set", f"rank.path={run / 'ranked'}", f"teacher.path={run / 'model'}"]
    (tmp_path / "another").mkdir()
    told = refusal(monkeypatch, capsys, tmp_path / "another", *given, "sample=transformers")
    assert "is not the file that the figures in" in told
