"""Every head under FSDP2 as accelerate itself wraps a model, not as a test would."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from forked import run, together
from fsdp2_heads import CASES


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures by case, as one process finds them."""
    folder = tmp_path_factory.mktemp("fsdp2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    launch |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = run("fsdp2_heads", str(folder), **launch)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "0.json").read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The figures by case, as each of two processes finds them."""
    folder = tmp_path_factory.mktemp("fsdp2-of-two")
    for done in together("fsdp2_heads", str(folder)):
        assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


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


def check(found: Any, case: Any) -> None:
    figures, exact = found[json.dumps(case)], case[2] == "no"
    expected, loss = figures["loss"]
    assert figures["dtype"] == "torch.float32"
    # Rewards have signs, so that their sum may be less than what rounding makes of one of them.
    signed = 0.01 if case[0] == "reward" and not exact else 0.0
    assert loss == pytest.approx(expected, rel=1e-5 if exact else 0.002, abs=signed)
    assert figures["gradient"] < (1e-5 if exact else 0.05)
