"""Two processes give the losses and the weights of one."""

from __future__ import annotations

import forked
import pytest
import torch
from ranking_trainer_processes import CASES, run
from torch.testing import assert_close


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The results of both processes of one launch, which runs all cases."""
    folder = tmp_path_factory.mktemp("processes")
    home = {"RANKDISTILL_HOME": str(folder / "home")}
    both = forked.together("ranking_trainer_processes", str(folder), **home)
    assert [done.returncode for done in both] == [0, 0], [done.stderr[-3000:] for done in both]
    return [torch.load(folder / f"process-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_same_losses_and_weights_as_one_process(processes, tmp_path, case):
    alone = run(case, tmp_path)
    for of_process in processes:
        ours = of_process[case]
        assert len(ours["loss"]) == len(alone["loss"])
        assert ours["loss"] == pytest.approx(alone["loss"], abs=1e-6)
        assert ours["rank_accuracy"] == pytest.approx(alone["rank_accuracy"], abs=1e-9)
        assert ours["evaluation"] == pytest.approx(alone["evaluation"], abs=1e-9)
        assert_close(ours["weights"], alone["weights"], rtol=0, atol=1e-9)


def test_both_processes_stop_and_name_the_prompt(processes):
    for of_process in processes:
        assert "The loss is not finite at step 2, on the prompts p2:" in of_process["stop"]


def test_both_processes_save_and_stop_where_one_is_asked_to(processes):
    for of_process in processes:
        step, checkpoint = of_process["asked"]
        assert step == 2 and checkpoint.endswith("checkpoint-2")
