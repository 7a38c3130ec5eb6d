"""PPO runs in processes of their own: two that share a run, or one that kills itself.

python ppo_processes.py share FOLDER; python ppo_processes.py die FOLDER {rollout,update} ITERATION
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from ppo_task import share_of_wanted, trainer

from rankdistill.train.ppo.trainer import PPOTrainer

CASES: dict[str, dict[str, Any]] = {
    "head": {},
    # One token per pass, and steps of three prompts: one process has more passes than the other.
    "uneven": {"max_batch_tokens": 1, "prompts_per_step": 3},
    "group": {"advantage": "group"},
    # The second process never has a prompt.
    "idle": {"prompts_per_rollout": 1, "prompts_per_step": 1, "epochs": 0.25},
}


def share(folder: Path) -> dict[str, Any]:
    """History and weights of every case."""
    results = {}
    for name, options in CASES.items():
        run = trainer(folder / name, **{"epochs": 2, "learning_rate": 1e-3, **options})
        run.train()
        results[name] = {"history": run.history, "weights": weights(run)}
    return results


def weights(run: PPOTrainer) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in run.policy.named_parameters()}


def long_run(folder: Path, reward: Any = share_of_wanted) -> PPOTrainer:
    """Six iterations with an adaptive KL coefficient, a checkpoint after each."""
    return trainer(
        folder, reward, epochs=3, prompts_per_rollout=4, save_steps=1, kl_target=1.0,
        kl_horizon=64, lr_scheduler_type="linear", warmup_ratio=0.3,
    )  # fmt: skip


def die(folder: Path, where: str, iteration: int) -> None:
    """Continues the long run, and kills the process in that iteration."""
    run: Any = None

    def reward(groups):
        if where == "rollout" and run.progress.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        return share_of_wanted(groups)

    run = long_run(folder, reward)
    step = run.optimizer.step

    def deadly_step(*args):
        step(*args)
        if where == "update" and run.progress.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    run.optimizer.step = deadly_step
    run.train(resume=True)


if __name__ == "__main__":
    what, target, *more = sys.argv[1:]
    if what == "share":
        torch.save(share(Path(target)), Path(target) / f"process-{os.environ['RANK']}.pt")
    else:
        die(Path(target), more[0], int(more[1]))
