"""The train stage by PPO: the warmed-up student learns from the reward model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rankdistill.console import is_main_process, progress
from rankdistill.distributed import refuse_sharding
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.models import Rows, merged, save_model
from rankdistill.models.model import model_of
from rankdistill.sample import SamplingOptions
from rankdistill.stages.reward import ModelReward, Rewarding, reads
from rankdistill.stages.rounds import needs_reward
from rankdistill.stages.run import Model, Run
from rankdistill.store import Partial
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.trainer import PPOTrainer
from rankdistill.train.reward.model import load_reward_model
from rankdistill.train.schema import PPOMethod, PPOTrainOptions
from rankdistill.trainer.progress import peak_memory

LEARNING_RATE = 3e-6
"""Where `train.learning_rate` is null: that of Huang et al. 2024 (arXiv:2403.17031)."""

MIXED = {"bfloat16": "bf16", "float16": "fp16"}

INDIRECT = ("learning_rate", "learning_rate_grid", "learning_rate_scale", "rollout")
"""Keys of `train` that are hashed by what they come to."""


def check_ppo(run: Run) -> None:
    """Refuse, before anything runs, what PPO and its reward model cannot do."""
    if not isinstance(run.settings.train, PPOTrainOptions):
        if needs_reward(run.settings) or run.settings.retrieval is not None:
            refuse_sharding("A reward model (reward.only=true, or a re-ranker)", os.environ)
        return
    refuse_sharding("PPO (train=ppo)", os.environ)
    _config(run, run.settings.train, None, "")


def ppo(
    run: Run,
    student: Model,
    prompts: Rows,
    rewarding: Rewarding,
    *,
    learning_rate: float | None = None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The student trained on the reward, and the figures of every iteration.

    Args:
        prompts: Of the train split.
        learning_rate: Peak; None: `train.learning_rate`, else LEARNING_RATE times its scale.
    """
    train = run.settings.train
    assert isinstance(train, PPOTrainOptions)
    config = _config(run, train, learning_rate, "")

    identity = {
        "code": 1,
        "student": student.identity,
        "reward_model": rewarding.model.identity,
        "prompts": prompts.key,
        "ppo": identity_of(train, instead=INDIRECT),
        "prompts_per_rollout": config.prompts_per_rollout,
        "sampling": vars(config.sampling),
        "learning_rate": config.learning_rate,
        **run.sampled_by,
        "seed": run.settings.seed,
        **run.trained_in,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        with peak_memory() as memory:
            figures = _train(run, train, student, prompts, rewarding, learning_rate, partial)
        return {**figures, **memory}

    what = f"PPO ({config.advantage}) on {len(prompts)} prompts, {config.learning_rate:g}"
    output = run.stage("train", what, identity, make, every_rank=True)
    return model_of(output, student.loading), json.loads((output.path / "history.json").read_text())


def _train(
    run: Run,
    settings: PPOTrainOptions,
    student: Model,
    prompts: Rows,
    rewarding: Rewarding,
    learning_rate: float | None,
    partial: Partial,
) -> Mapping[str, Any]:
    tokenizer = student.tokenizer()
    critic = _critic(run, settings, student, rewarding)
    trainer = PPOTrainer(
        student.trainable(run.lora, run.settings.seed),
        _config(run, settings, learning_rate, str(partial.scratch / "checkpoints")),
        prompts.rows,
        tokenizer,
        ModelReward(run, rewarding.model, student),
        run.sampler(),
        critic=critic,
        report_to=run.settings.report_to,
        loading=student.loading,
    )
    done = trainer.resume()
    with progress(len(trainer.rollouts), "iterations", done=done) as bar:
        trainer.on_iteration = lambda row: bar.advance(
            1, f"reward {row['score']:.3f}, KL {row['kl']:.3f}, {row['response_tokens']:.0f} tokens"
        )
        trainer.train()
    if is_main_process():
        save_model(merged(trainer.policy), tokenizer, partial.path / "model")
        (partial.path / "history.json").write_text(json.dumps(trainer.history))
    trainer.accelerator.wait_for_everyone()
    # Policy, reward model, the sampler's copy, and the reference, which adapters have inside them.
    models = 3 + (run.lora is None) + (critic is not None)
    return {
        "iterations": len(trainer.history),
        "steps": trainer.progress.steps,
        "models": models,
    }


def _critic(run: Run, settings: PPOTrainOptions, student: Model, rewarding: Rewarding) -> Any:
    """A separate critic begins as the reward model, as in InstructGPT; it reads the same tokens."""
    if settings.advantage == "group" or settings.critic == "head":
        return None
    ours, theirs = student.tokenizer(), rewarding.model.tokenizer()
    if not reads(theirs, ours):
        raise UserError(
            "train.critic=separate begins as the reward model, whose tokenizer is not the "
            "student's: take train.critic=head, or reward.backbone=warmed_up."
        )
    return load_reward_model(rewarding.model.path, **rewarding.model.loading.options)


def _config(
    run: Run, settings: PPOTrainOptions, learning_rate: float | None, output_dir: str
) -> PPOConfig:
    rollout = settings.rollout
    most = rollout.max_response_tokens or run.settings.sample.max_response_tokens
    if learning_rate is None:
        learning_rate = settings.learning_rate
    if learning_rate is None:
        learning_rate = LEARNING_RATE * settings.learning_rate_scale
    same = {own.name: getattr(settings, own.name) for own in fields(PPOMethod)}
    return PPOConfig(
        output_dir=output_dir,
        sampling=SamplingOptions.of(rollout, run.settings.seed, max_response_tokens=most),
        prompts_per_rollout=rollout.prompts,
        sampling_strategy=settings.sampling_strategy,
        layout=settings.layout.name,
        mixed_precision=MIXED.get(run.settings.student.precision.name, "no"),
        seed=run.settings.seed,
        **{**same, "learning_rate": learning_rate},
    )
