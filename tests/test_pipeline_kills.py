"""Runs that are ended at random moments, by three signals, end like one that was not.

About a dozen times here, ninety more by `pytest -m slow tests/test_pipeline_kills.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("pipeline_kills.py")
STAGES = "start prompts student sample teacher warmup score rank reference train evaluate"


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (11, 0),
        pytest.param(30, 1, marks=pytest.mark.slow),
        pytest.param(60, 2, marks=pytest.mark.slow),
    ],
)
def test_kills_in_every_stage_change_nothing(kills, seed, tmp_path, teacher):
    paths = [str(SCRIPT.parents[1]), str(SCRIPT.parent)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(teacher), str(kills), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert len(found["hits"]) >= kills
    assert set(found["hits"]) >= set(STAGES.split()), found
