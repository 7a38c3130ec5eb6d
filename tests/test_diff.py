"""Word by word: pieces give both texts back, the most changed come first, other prompts don't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankdistill.diff.__main__ import main
from rankdistill.diff.changes import Change, changes, headline, html, markdown


def run_of(folder: Path, answers: dict[str, tuple[str, float]]) -> Path:
    folder.mkdir()
    metrics = {"format": 2, "recipe": "dpo", "stages": [], "models": {}, "trained": "trained"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        {
            "prompt_id": name,
            "messages": [{"role": "user", "content": f"Prompt <{name}>?"}],
            "responses": {
                "trained": [{"text": text, "score": score, "tokens": 3, "cut": False}],
                "teacher": [{"text": "?", "score": 0.0, "tokens": 1, "cut": False}],
            },
        }
        for name, (text, score) in answers.items()
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    a = {"same": ("It is <b>.", 1.0), "part": ("one two three", 0.0), "all": ("a b", -1.0)}
    b = {"same": ("It is <b>.", 1.0), "part": ("one 2\n three", 0.5), "all": ("x *y*", -2.0)}
    return run_of(tmp_path / "a", a), run_of(tmp_path / "b", b)


def test_the_most_changed_first_and_the_texts_are_in_it(runs):
    rows = changes(*runs)
    assert [row.prompt_id for row in rows] == ["all", "part", "same"]
    assert [round(row.similarity, 3) for row in rows] == [0.0, round(2 / 3, 3), 1.0]
    assert [row.gain for row in rows] == [-1.0, 0.5, 0.0]
    for row in rows:
        for without, answer in (("new", row.before), ("gone", row.after)):
            text = "".join(text for kind, text in row.words if kind != without)
            # A word that stays is shown with the white space of the first text.
            assert text.split() == answer["text"].split()
    assert rows[2].words == [("same", "It is <b>.")]
    assert headline(rows) == "2 of 3 first answers changed; 1 of 3 score higher."


def test_pages_escape_what_models_write(runs, tmp_path):
    rows = changes(*runs)
    page = html(rows, "a", "b")
    assert "<b>" not in page and "It is &lt;b&gt;." in page
    assert "<del>a b</del><ins>x *y*</ins>" in page
    text = markdown(rows, "a", "b")
    assert r"**x \*y\***" in text and "~~a b~~" in text and r"\<b\>" in text


def test_the_command(runs, tmp_path, capsys):
    to = tmp_path / "diff.html"
    assert main([*map(str, runs), "--to", str(to)]) == 0
    told = capsys.readouterr().out
    assert "2 of 3 first answers changed" in told and "three" in told
    assert to.read_text().startswith("<!doctype html>")


def test_mistakes_are_one_sentence(runs, tmp_path, capsys):
    other = run_of(tmp_path / "other", {"same": ("yes", 1.0), "new": ("no", 0.0)})
    silent = run_of(tmp_path / "silent", {})
    (silent / "answers.jsonl").unlink()
    a = str(runs[0])
    for arguments, told in [
        ([a, str(other)], "different prompts (3 and 2, 1 in common)"),
        ([a, str(silent)], "kept no answers"),
        ([a, str(tmp_path / "none")], "no metrics.json"),
        ([a, str(runs[1]), "--to", "diff.pdf"], ".html or .md"),
        ([a, str(runs[1]), "--to", str(tmp_path / "no" / "x.md")], "cannot be written"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error


def test_an_answer_without_a_score_has_no_gain():
    said = {"text": "a", "score": None}
    assert Change("p", [], said, {"text": "b", "score": 1.0}).gain is None
