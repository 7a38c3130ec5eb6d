"""docs/figures/kept.py, on shares that a reader can count."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankdistill.evaluate.items import ItemValues
from rankdistill.report.suite_items import suite_items_file

SCRIPT = Path(__file__).parents[1] / "docs" / "figures" / "kept.py"
ITEMS = 100
TEACHER = 65  # of 100: 40 points above chance


def write(folder: Path, right: int, followed: int) -> Path:
    """A run whose student is right on so many descriptions and follows so many demands."""
    ids = [f"{n:03}" for n in range(ITEMS)]
    values = {
        model: ItemValues(ids, (np.arange(ITEMS) < solved)[None] * 1.0, np.ones((1, ITEMS)))
        for model, solved in {"trained": right, "warmed_up": TEACHER}.items()
    }
    rows = [
        {
            "arm": arm, "prompt_id": one, "cluster": one, "kind": "words", "side": "words",
            "group": "other", "trained": True, "answer": 0, "weight": 1.0, "tokens": 9,
            "followed": float(n < most), "opposite": float(n >= most),
        }
        for arm, most in {"trained_greedy": followed, "warmed_up_greedy": 80}.items()
        for n, one in enumerate(ids)
    ]  # fmt: skip
    folder.mkdir()
    for name, content in suite_items_file({"hellaswag": {"acc_norm,none": values}}).items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows), folder / "demands.parquet")
    figures = {"trained": "trained", "models": {"trained": {"kl_to_teacher": 1.25}}}
    (folder / "metrics.json").write_text(json.dumps(figures))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    monkeypatch.setattr(sys, "argv", ["kept.py", *runs])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_share_above_chance_and_its_line(tmp_path, monkeypatch, capsys):
    # 8, 12 and 16 of the teacher's 40 points above chance: 20, 30 and 40 %.
    runs = {
        minutes: write(tmp_path / f"{minutes}", right, 60)
        for minutes, right in {60: 37, 30: 33, 120: 41}.items()
    }
    untrained = write(tmp_path / "0", 25, 0)
    (untrained / "metrics.json").write_text('{"models": null}')  # HellaSwag alone
    run(monkeypatch, f"0={untrained}", *(f"{minutes}={of}" for minutes, of in runs.items()))
    _, _, none, *lines = capsys.readouterr().out.splitlines()
    assert none.startswith("| 0 |  | 25.0 (of 65.0) | 0.0 [")
    cells = [[cell.split(" [")[0] for cell in line.strip("| ").split(" | ")] for line in lines[:3]]
    assert cells == [
        ["30", "1.25", "33.0 (of 65.0)", "20.0", "20.0"],
        ["60", "1.25", "37.0 (of 65.0)", "30.0", "20.0"],
        ["120", "1.25", "41.0 (of 65.0)", "40.0", "20.0"],
    ]
    assert "(of 60.0 [" in lines[0]
    # 97 % is 5.7 doublings beyond 40 %: 120 * 2 ** 5.7.
    assert lines[-1] == (
        "A doubling of the minutes adds 10.0 points; the line is at 97% after 6,238 minutes."
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "give runs as MINUTES=FOLDER"),
        (["runs/one"], "give runs as MINUTES=FOLDER"),
        (["soon=runs/one"], "could not convert"),
        (["30=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(monkeypatch, capsys, given, told):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *given)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert told in said
    assert said.count("\n") == 1
