"""The key gradient_checkpointing, in every training; what it computes is in test_forward.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_run import TINY, refusal, run_here
from transformers import PreTrainedModel

PPO = ["recipe=ppo", "reward.min_accuracy=0", "train.rollout.prompts=3", "train.epochs=1"]


@pytest.mark.parametrize(
    "trainings, others",
    [
        (("warmup", "train"), ["recipe=rrhf"]),
        (("warmup", "reward", "train"), [*PPO, "warmup=sft", "warmup.epochs=1"]),
    ],
)
def test_every_training_takes_it(monkeypatch, tmp_path, teacher, trainings, others):
    enabled: list[dict[str, Any]] = []
    own = PreTrainedModel.gradient_checkpointing_enable

    def recorded(self, options=None, **kwargs):
        enabled.append(options)
        own(self, options, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", recorded)
    recipe, *more = others
    folder = run_here(
        monkeypatch, tmp_path, recipe, *TINY, f"teacher.path={teacher}", *more,
        "eval.quick.sharpening_control=false",
        *(f"{group}.gradient_checkpointing=selective" for group in trainings),
    )  # fmt: skip
    assert len(enabled) == len(trainings) and all("context_fn" in options for options in enabled)
    assert json.loads((folder / "metrics.json").read_text())["training_history"]


@pytest.mark.parametrize("group", ["train", "reward", "warmup"])
def test_another_word_is_refused_at_once(monkeypatch, tmp_path, capsys, group):
    key = f"{group}.gradient_checkpointing"
    said = refusal(monkeypatch, capsys, tmp_path, "recipe=ppo", f"{key}=some")
    assert f"{key} is 'some'; it must be true, false or selective." in said
