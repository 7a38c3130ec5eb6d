"""DeepSpeed itself, on a CPU. `make install` leaves it out: it compiles what a CPU does not need.

DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from forked import run


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_as_one_process_does_and_saves_what_it_trained(
    stage: int, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    launch |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    done = run("zero_training", str(tmp_path), str(stage), **launch)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, figures in json.loads((tmp_path / "found.json").read_text()).items():
        expected, loss = figures["loss"]
        assert loss == pytest.approx(expected, rel=0.002), name
        assert figures["dtype"] == "torch.float32" and figures["gradient"] < 0.05, (name, figures)
        assert figures["saved"] and not figures["rounded"], name
