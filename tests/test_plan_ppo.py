"""What is planned of PPO beside its policy is what its own classes hold."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ppo_task import prompts, trainer

from rankdistill.models import load_trainable
from rankdistill.models.model import Loading, Model
from rankdistill.plan.__main__ import main
from rankdistill.stages.reward import ModelReward
from rankdistill.train.reward.model import load_reward_model


def size(model: Any) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def planned(capsys: Any, *arguments: str) -> dict[str, float]:
    capsys.readouterr()  # what a training said
    assert main(["recipe=ppo", "student.keep_layers=null", *arguments, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    return next(s["memory_bytes"] for s in stages if s["stage"] == "train")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_models_gradients_and_averages(
    precision: str, capsys: Any, tiny_dir: Path, tmp_path: Path
) -> None:
    path = str(tiny_dir)
    layout, reward = SimpleNamespace(name="shared"), SimpleNamespace(max_batch_tokens=64)
    settings = SimpleNamespace(seed=0, train=SimpleNamespace(layout=layout), reward=reward)
    backbone = Model(path, {}, Loading(precision))
    scores: Any = ModelReward(SimpleNamespace(settings=settings), backbone, backbone, new_head=True)  # type: ignore[arg-type]
    task = trainer(
        tmp_path, scores, policy=load_trainable(path), prompts=prompts(2), epochs=1, ppo_epochs=1,
        critic=load_reward_model(path, new_head=True), prompts_per_rollout=2, prompts_per_step=1,
        sampling={"responses_per_prompt": 2, "max_response_tokens": 4},
    )  # fmt: skip
    task.train()
    averages = {
        parameter: sum(x.nbytes for x in state.values() if x.dim() > 0)
        for parameter, state in task.optimizer.state.items()
    }
    critic, policy = task.model.critic, task.policy
    [reader] = task.rollouts._readers._readers.values()
    beside = size(scores._loaded) + size(reader._model)  # type: ignore[attr-defined]
    beside += 2 * size(critic) + sum(averages[p] for p in critic.parameters())
    found = planned(
        capsys, f"teacher.path={path}", f"student.precision={precision}", "train.critic=separate"
    )
    assert found["others"] == pytest.approx(beside, rel=0.01)
    assert found["optimiser"] == sum(averages[p] for p in policy.parameters())
    if precision == "float32":  # under autocast copies of the matrices come on top
        assert found["weights"] == size(policy)


def test_a_reward_model_of_another_backbone(capsys: Any, tiny_dir: Path) -> None:
    """Its own size and precision, not the student's."""
    given = [f"teacher.path={tiny_dir}", "student.path=bundled/smollm2-135m-instruct"]
    of_teacher, of_student = (
        planned(capsys, *given, "teacher.precision=bfloat16", f"reward.backbone={backbone}")
        for backbone in ("teacher", "warmed_up")
    )
    student, tiny = 4 * 134_515_008, 2 * size(load_trainable(str(tiny_dir))) / 4
    assert of_teacher["others"] == student + tiny and of_student["others"] == 2 * student
