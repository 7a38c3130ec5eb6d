"""docs/figures/problems.py, on shares that a reader can count."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "figures" / "problems.py"
PROBLEMS = 20


def write(folder: Path, **right: int) -> Path:
    """Rows of a run in which an arm is right on the first so many of 20 problems."""
    rows = [
        {
            "arm": arm, "prompt_id": f"{n:02}", "cluster": f"{n:02}", "kind": kind, "side": kind,
            "group": "other", "trained": kind == "number", "answer": 0, "weight": 1.0, "tokens": 9,
            "followed": float(n < solved if kind == "number" else 1), "opposite": None,
        }
        for arm, solved in right.items()
        for n in range(PROBLEMS)
        for kind in ("number", "form")
    ]  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "demands.parquet")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    monkeypatch.setattr(sys, "argv", ["problems.py", *runs])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_shares_and_differences(tmp_path, monkeypatch, capsys):
    teacher = {"teacher": 2, "teacher_greedy": 8, "teacher_majority": 6, "teacher_examples": 10}
    seeds = [
        write(tmp_path / f"seed={n},a", **teacher, warmed_up_greedy=5, trained_greedy=n)
        for n in (9, 15)
    ]
    gold = write(tmp_path / "gold", warmed_up_greedy=7)
    run(monkeypatch, f"ours={seeds[0]}", f"gold={gold}", f"ours={seeds[1]}")
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    told = [[line[0].strip("| "), *(cell.split(" [")[0] for cell in line[1:])] for line in lines]
    assert [line[:2] for line in told[:4]] == [
        ["teacher, sampled", "10.0"], ["teacher, greedy", "40.0"],
        ["teacher, majority of 8", "30.0"], ["teacher, four examples", "50.0"],
    ]  # fmt: skip
    assert told[4:] == [
        ["warmed up, greedy", "25.0", "-15.0", "-25.0"],
        ["ours, greedy", "60.0", "+20.0", "+10.0"],
        ["gold, greedy", "35.0", "-5.0", "-15.0"],
    ]


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    other = write(tmp_path / "other", warmed_up=3)
    for given, said in ((tmp_path, "There is no .*demands.parquet"), (other, "no answers of")):
        with pytest.raises(SystemExit, match=f"error: .*{said}"):
            run(monkeypatch, f"ours={given}")
    with pytest.raises(SystemExit, match="error: 'runs/a' has no label: write 'ours=runs/a'"):
        run(monkeypatch, "runs/a")
