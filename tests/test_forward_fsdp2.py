"""Every head under FSDP2 as accelerate itself wraps a model, not as a test would."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forked import run, together
from fsdp2_heads import ALL, CASES


def figures_of(folder: Path, processes: int, *which: str) -> list[dict[str, Any]]:
    """The figures by case, as each process of a launch finds them."""
    command = ("fsdp2_heads", str(folder), *which)
    launched = [alone_in_a_launch(*command)] if processes == 1 else together(*command)
    for done in launched:
        assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def alone_in_a_launch(*command: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    launch |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return run(*command, **launch)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return figures_of(tmp_path_factory.mktemp("fsdp2"), 1)[0]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return figures_of(tmp_path_factory.mktemp("fsdp2-of-two"), 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_gradients_are_those_of_the_whole_model(case: Any, alone: Any) -> None:
    check(alone, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_have_the_gradients_of_one(case: Any, both: Any) -> None:
    for found in both:
        check(found, case)


def test_a_policy_that_equals_its_reference_has_log_ratios_of_0(alone: Any) -> None:
    """One precision for both: under autocast, norms would be float32 in one of them only."""
    assert alone["log ratio"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_every_combination(processes: int, tmp_path: Path) -> None:
    for found in figures_of(tmp_path, processes, "all"):
        for case in ALL:
            check(found, case)


def check(found: Any, case: Any) -> None:
    figures, exact = found[json.dumps(case)], case[2] == "no"
    expected, loss = figures["loss"]
    assert figures["dtype"] == "torch.float32"
    # Rewards have signs, so that their sum may be less than what rounding makes of one of them.
    signed = 0.01 if case[0] == "reward" and not exact else 0.0
    assert loss == pytest.approx(expected, rel=1e-5 if exact else 0.002, abs=signed)
    assert figures["gradient"] < (1e-5 if exact else 0.05)
