"""Runs that are ended at random moments, by three signals, end like one that was not.

About a dozen times here, many more by `pytest -m slow tests/test_pipeline_kills.py`.
"""

from __future__ import annotations

import json

import forked
import pytest
from test_models_convert import write_gguf

STAGES = {
    "dpo": "start prompts student sample teacher warmup score rank reference train evaluate",
    "ppo": "start prompts student sample warmup score rank reward train evaluate",
}


@pytest.mark.parametrize(
    ("run", "kills", "seed", "converted"),
    [
        ("dpo", 11, 0, False),
        pytest.param("dpo", 30, 1, False, marks=pytest.mark.slow),
        pytest.param("dpo", 60, 2, False, marks=pytest.mark.slow),
        pytest.param("dpo", 24, 4, True, marks=pytest.mark.slow),
        pytest.param("ppo", 24, 3, False, marks=pytest.mark.slow),
    ],
)
def test_kills_in_every_stage_change_nothing(run, kills, seed, converted, tmp_path, teacher):
    """`converted`: the teacher is a GGUF file, whose conversion is killed too."""
    if converted:
        teacher = tmp_path / "teacher.gguf"
        write_gguf(teacher, layers=3)
    arguments = (tmp_path, teacher, kills, seed, run)
    done = forked.Forked("pipeline_kills", *map(str, arguments)).wait(60 + 30 * kills)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert len(found["hits"]) >= kills
    assert set(found["hits"]) >= set(STAGES[run].split()), found
