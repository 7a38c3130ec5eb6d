"""`python -m rankdistill.store`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from rankdistill.store import Output, Partial, Store
from rankdistill.store.__main__ import main
from rankdistill.store.words import age_text, parse_age, size_text


def make(partial: Partial) -> dict[str, int]:
    partial.shards().append([{"number": number} for number in range(1500)])
    (partial.path / "weights.bin").write_bytes(bytes(2_000_000))
    return {"made": 1500}


def fail(partial: Partial) -> None:
    partial.shards().append([{"number": 1}])
    raise RuntimeError("[b]no\nteacher[/b]")


@pytest.fixture
def filled() -> dict[str, Output]:
    """Two finished outputs and a failed one."""
    store = Store()
    outputs = {"one": store.output("sample", {"seed": 1}, make)}
    outputs["old"] = store.output("train", {"seed": 1}, make)
    with pytest.raises(RuntimeError):
        store.output("sample", {"seed": 2}, fail)
    age(outputs["old"], "2020-01-01T00:00:00+00:00")
    return outputs


def age(output: Output, finished: str) -> None:
    """Rewrites the manifest as if it had been finished then."""
    from rankdistill.store import manifest

    body = {**output.manifest, "finished": finished}
    del body["checksum"]
    (output.path / manifest.NAME).write_text(
        json.dumps({**body, "checksum": manifest._checksum(body)})
    )


def unfinished() -> str:
    return next((Store().root / "partial").iterdir()).name


def test_list(filled, capsys):
    assert main([]) == 0
    head, *lines, note, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["output", "size", "files", "rows", "age", "state"]
    cells = {line.split()[0]: re.split(r" {2,}", line.strip()) for line in lines}
    one, old, failed = cells[filled["one"].key], cells[filled["old"].key], cells[unfinished()]
    assert one[1:4] == ["2.02 MB", "3", "1,500"] and one[-1] == "complete"
    assert re.fullmatch(r"\d{4,} d", old[4])
    left = [p for p in Store().partial_path(unfinished()).rglob("*") if p.is_file()]
    assert failed[1:3] == [size_text(sum(p.stat().st_size for p in left)), str(len(left))] and left
    # Whole, on one line, and not taken for rich's markup.
    assert failed[-1] == "failed" and note == f"{unfinished()} failed: [b]no teacher[/b]"
    assert total.startswith("2 outputs, 4.05 MB; 1 unfinished, ")
    assert total.endswith(f"in {Store().root}")


def test_the_list_reads_a_manifest_once_and_again_when_it_is_another(filled, capsys, monkeypatch):
    def listed() -> dict[str, list[str]]:
        assert main([]) == 0
        lines = capsys.readouterr().out.splitlines()[1:-2]
        return {line.split()[0]: re.split(r" {2,}", line.strip()) for line in lines}

    first, one = listed(), filled["one"].key
    with monkeypatch.context() as unread:
        unread.setattr("rankdistill.store.manifest.read", lambda folder: pytest.fail(str(folder)))
        again = listed()
    for line in (*first.values(), *again.values()):
        line[4] = "now" if line[4] == "1 s" else line[4]  # a second may pass between the two
    assert again == first
    age(filled["one"], "2020-01-01T00:00:00+00:00")
    assert listed()[one][4] == first[filled["old"].key][4] != first[one][4]
    age(filled["one"], "2999-01-01T00:00:00+00:00")  # the clock was put back
    assert listed()[one][4] == "now"
    (filled["one"].path / "manifest.json").unlink()
    assert listed()[one][-1] == "damaged"
    for rubbish in ("", "[1]", '{"version": 1, "outputs": null}'):
        (Store().root / ".inventory.json").write_text(rubbish)
        assert listed().keys() == first.keys()
    # Nor does it take what is not the store's own.
    assert main(["remove", "--all", "--yes"]) == 0 and not listed()


def test_list_of_an_empty_store(capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"No outputs in {Store().root}.\n"
    assert not Store().root.exists()


def test_list_shows_damage_and_the_maker(filled, capsys):
    (filled["one"].path / "weights.bin").write_bytes(b"")
    store = Store()

    def look(partial: Partial) -> None:
        assert main([]) == 0
        assert main(["remove", store_key, "--yes"]) == 2

    store_key = unfinished()
    store.output("sample", {"seed": 2}, look)
    out, err = capsys.readouterr()
    assert re.search(rf"{filled['one'].key} .* damaged", out)
    maker = f"by process {os.getpid()} on {os.uname().nodename}"
    assert re.search(rf"{store_key} .* building", out) and f"{store_key} building: {maker}\n" in out
    assert (
        err
        == f"error: Not removed, because it is being made ({store_key} {maker}): stop that first.\n"
    )
    assert store.find(store_key) is not None


def test_show(filled, capsys):
    assert main(["show", filled["one"].key[:12]]) == 0
    assert json.loads(capsys.readouterr().out) == filled["one"].manifest
    assert main(["show", unfinished()]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == "[b]no\nteacher[/b]"


def test_verify(filled, capsys):
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 outputs verified, 0 damaged"
    weights = filled["old"].path / "weights.bin"
    weights.write_bytes(bytes(1_999_999) + b"x")
    assert main(["verify", "train"]) == 1
    assert f"{filled['old'].key}: damaged: weights.bin" in capsys.readouterr().out
    assert main(["verify", filled["one"].key, unfinished()]) == 0


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--stage", "train"], {"one", "failed"}),
        (["--older-than", "30d"], {"one", "failed"}),
        (["--partial"], {"one", "old"}),
        (["--stage", "sample", "--partial"], {"one", "old"}),
        (["--stage", "sample", "--older-than", "30d"], {"one", "old", "failed"}),
        (["--all"], set()),
        (["train"], {"one", "failed"}),
    ],
)
def test_remove(filled, capsys, arguments, left):
    keys = {"one": filled["one"].key, "old": filled["old"].key, "failed": unfinished()}
    assert main(["remove", *arguments, "--yes"]) == 0
    root = Store().root
    there = {path.name for place in ("outputs", "partial") for path in (root / place).iterdir()}
    assert there == {keys[name] for name in left}
    assert not list((root / ".trash").iterdir() if (root / ".trash").exists() else [])
    assert not (root / "trash").exists()
    out = capsys.readouterr().out
    assert out.startswith("Nothing to remove" if len(left) == 3 else "Removed ")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("no", 1)])
def test_remove_asks(filled, capsys, monkeypatch, answer, code):
    questions = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or answer)
    assert main(["remove", filled["one"].key]) == code
    assert questions == ["Remove 1 output (2.02 MB)? [y/N] "]
    assert filled["one"].path.exists() == bool(code)


MISTAKES = [
    (["show", "sampel-1"], "No output 'sampel-1' in .*: (did you mean|valid names are) "),
    (["show", "sample"], "2 outputs begin with 'sample': sample-"),
    (["show", ""], "No output ''"),
    (["show"], "The following arguments are required: KEY: see `python -m rankdistill.store show"),
    (["remove"], "Say what to remove: KEY..., --stage S, --older-than 30d, --partial or --all"),
    (["remove", "train", "--all"], "Give either keys or conditions"),
    (["remove", "--older-than", "30"], "--older-than 30 is not an age: write 45s, 90m, 12h, 30d"),
    (["remove", "--stage", "tran"], "No outputs of the stage 'tran': did you mean 'train'?"),
    (
        ["remove", "train"],
        r"Removing 1 output \(2.02 MB\) needs a yes, and there is no terminal to ask at: add --yes",
    ),
    (["remvoe"], "Argument COMMAND: invalid choice: 'remvoe'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    filled, capsys, monkeypatch, arguments, sentence
):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert re.match(f"error: {sentence}", err) and err.count("\n") == 1
    assert filled["old"].path.exists()


def test_piped_output_is_plain_and_whole(tmp_path):
    why = "because " * 30
    with pytest.raises(RuntimeError):
        Store().output("sample", {}, lambda partial: (_ for _ in ()).throw(RuntimeError(why)))
    command = [sys.executable, "-m", "rankdistill.store"]
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm-256color"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[2].endswith(f" failed: {why.strip()}")
    assert "\x1b" not in done.stdout and done.stdout.isascii()


def test_sizes_and_ages():
    assert [size_text(size) for size in (0, 999, 1000, 271_900_000, 1.43e9, 5e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "272 MB",
        "1.43 GB",
        "5000 TB",
    ]
    assert [age_text(age) for age in (0.5, 59, 61, 7300, 3 * 86400)] == [
        "now",
        "59 s",
        "1 min",
        "2 h",
        "3 d",
    ]
    assert [parse_age(text) for text in ("45s", "1.5h", "2W", "30", "d", "-3d")] == [
        45,
        5400,
        14 * 86400,
        None,
        None,
        None,
    ]
