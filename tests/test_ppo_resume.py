"""Killed, continued, or shared by two processes: PPO ends where it ends unbroken and alone."""

from __future__ import annotations

import shutil
import signal

import forked
import pytest
import torch
from ppo_processes import CASES, long_run, share, weights

from rankdistill.train.ppo.checkpoint import STATE, last_complete


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The long run, with a copy of every checkpoint."""
    folder = tmp_path_factory.mktemp("unbroken")
    run = long_run(folder / "run")
    run.on_iteration = lambda figures: [
        shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        for path in (folder / "run").glob("checkpoint-*")
    ]
    run.train()
    return run, folder


def assert_same_end(run, wanted):
    assert run.history == wanted.history
    assert run.controller.coefficient == wanted.controller.coefficient
    for name, weight in weights(wanted).items():
        assert torch.equal(weights(run)[name], weight), name
    ours, theirs = (r.accelerator.unwrap_model(r.model).critic.state_dict() for r in (run, wanted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("iteration", [1, 4])
def test_a_continued_run_equals_an_unbroken_one(tmp_path, unbroken, iteration):
    run, folder = unbroken
    shutil.copytree(folder / f"checkpoint-{iteration}", tmp_path / f"checkpoint-{iteration}")
    # A kill while a checkpoint was written leaves one without its state.
    shutil.copytree(folder / f"checkpoint-{iteration}", tmp_path / f"checkpoint-{iteration + 1}")
    (tmp_path / f"checkpoint-{iteration + 1}" / STATE).unlink()
    assert last_complete(tmp_path) == tmp_path / f"checkpoint-{iteration}"
    again = long_run(tmp_path)
    again.train(resume=True)
    assert_same_end(again, run)
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-5", "checkpoint-6"]


def test_the_coefficient_and_the_learning_rate_move(unbroken):
    run, _ = unbroken
    assert len({row["kl_coef"] for row in run.history}) > 3
    rates = [row["learning_rate"] for row in run.history]
    assert rates[0] < rates[2] and rates[-1] < rates[2] and rates[-1] > 0


def test_kill_9_in_a_rollout_and_in_an_update(tmp_path, unbroken):
    for where, iteration in (("rollout", 2), ("update", 4)):
        arguments = ["die", str(tmp_path), where, str(iteration)]
        home = {"RANKDISTILL_HOME": str(tmp_path / "home")}
        killed = forked.run("ppo_processes", *arguments, **home)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        assert last_complete(tmp_path) == tmp_path / f"checkpoint-{iteration}"
    again = long_run(tmp_path)
    again.train(resume=True)
    assert_same_end(again, unbroken[0])


def test_two_processes_are_one(tmp_path):
    home = {"RANKDISTILL_HOME": str(tmp_path / "home")}
    both = forked.together("ppo_processes", "share", str(tmp_path), **home)
    assert [done.returncode for done in both] == [0, 0], [done.stderr[-3000:] for done in both]
    alone = share(tmp_path / "alone")
    for rank in (0, 1):
        results = torch.load(tmp_path / f"process-{rank}.pt")
        for case in CASES:
            for ours, theirs in zip(results[case]["history"], alone[case]["history"], strict=True):
                assert ours == pytest.approx(theirs, abs=2e-4), case
            for name, weight in alone[case]["weights"].items():
                torch.testing.assert_close(
                    results[case]["weights"][name], weight, rtol=0, atol=5e-4
                )
