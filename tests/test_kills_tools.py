"""Tools that are killed at random moments leave what was there, or what they write, whole.

Two kills here, the others by `pytest -m slow tests/test_kills_tools.py`.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import forked
import pytest
from compare_rows import write_run
from export_runs import finished_run

TOOLS = {
    "export": ("rankdistill.export", "run", "--to", "exported"),
    "report": ("rankdistill.report", "run"),
    "compare": ("rankdistill.compare", "a", "b", "--to", "comparison"),
    "rank": ("rankdistill.rank", "run", "set.parquet"),
    "review": ("review_writes", "run"),
}


@pytest.mark.parametrize(
    ("tool", "kills"),
    [(tool, 1) for tool in ("export", "review")]
    + [pytest.param(tool, 10, marks=pytest.mark.slow) for tool in TOOLS],
)
def test_a_tool_that_is_killed_leaves_nothing_half(tool, kills, tmp_path):
    chance = random.Random(tool)
    place, untouched = tmp_path / "place", tmp_path / "untouched"
    finished_run(untouched / "run")
    if tool == "compare":
        for folder, name in (("a", "RRHF"), ("b", "PRO")):
            write_run(untouched / folder, name, prompts=4)
    for _ in range(2):  # the first one may have to start the server of forks too
        took = whole_run(tool, untouched, place)
    before, after = visible(untouched), visible(place)
    hits = 0
    for _ in range(5 * kills):
        shutil.rmtree(place)
        shutil.copytree(untouched, place)
        process = forked.Forked(*TOOLS[tool], cwd=place)
        time.sleep(chance.uniform(0, took))
        process.kill()
        hits += process.wait().returncode == -signal.SIGKILL
        for name, data in visible(place).items():
            assert data in (before.get(name), after.get(name)), name
        again = forked.run(*TOOLS[tool], cwd=place)
        assert again.returncode == 0, again.stderr[-3000:]
        assert visible(place) == after
        assert not [path for path in place.rglob(".*") if path.is_dir()]
        if hits == kills:
            return
    raise AssertionError(f"{hits} of {kills} kills came before the end")


def whole_run(tool: str, untouched: Path, place: Path) -> float:
    """Seconds from the beginning to the end."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(untouched, place)
    began = time.monotonic()
    done = forked.run(*TOOLS[tool], cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - began


def visible(folder: Path) -> dict[str, bytes]:
    """The files that anybody would look at."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {n: path.read_bytes() for n, path in names.items() if "/." not in f"/{n}"}
