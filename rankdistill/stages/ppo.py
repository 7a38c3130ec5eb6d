"""The train stage by PPO: the warmed-up student learns from a reward, or from its teacher."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rankdistill.console import is_main_process, progress
from rankdistill.distributed import refuse_sharding
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.models import Rows, merged, save_model
from rankdistill.models.model import model_of
from rankdistill.rows import Group
from rankdistill.sample import SamplingOptions
from rankdistill.score import Scorer, score_groups
from rankdistill.score.scorer import TeacherAccess
from rankdistill.stages.reward import ModelReward, Rewarding, read_in, reads
from rankdistill.stages.rounds import needs_reward
from rankdistill.stages.run import Model, Run
from rankdistill.stages.token_teachers import check_teachers, opened, teachers_identity
from rankdistill.store import Partial
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.rollout import Reward
from rankdistill.train.ppo.trainer import PPOTrainer
from rankdistill.train.reward.model import load_reward_model
from rankdistill.train.schema import PPOMethod, PPOTrainOptions
from rankdistill.trainer.progress import peak_memory

LEARNING_RATE = 3e-6
"""Where `train.learning_rate` is null: that of Huang et al. 2024 (arXiv:2403.17031)."""

MIXED = {"bfloat16": "bf16", "float16": "fp16"}

INDIRECT = (
    "learning_rate", "learning_rate_grid", "learning_rate_scale", "rollout", "reward", "teachers",
)  # fmt: skip
"""Keys of `train` that are hashed by what they come to."""


def check_ppo(run: Run) -> None:
    """Refuse, before anything runs, what PPO, its reward and its teacher cannot do."""
    train = run.settings.train
    if not isinstance(train, PPOTrainOptions):
        if needs_reward(run.settings) or run.settings.retrieval is not None:
            refuse_sharding("A reward model (reward.only=true, or a re-ranker)", os.environ)
        return
    refuse_sharding("PPO (train=ppo, train=distillation)", os.environ)
    _config(run, train, None, "")
    if train.reward_coef > 0 and not train.learns_reward:
        _verifier(run)
    if train.distils:
        check_teachers(run, train)


def ppo(
    run: Run,
    student: Model,
    prompts: Rows,
    rewarding: Rewarding | None,
    *,
    learning_rate: float | None = None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The student trained on the reward or by its teacher, and the figures of every iteration.

    Args:
        prompts: Of the train split, as the teacher sees them where it teaches.
        rewarding: Where the reward is a model's.
        learning_rate: Peak; None: `train.learning_rate`, else LEARNING_RATE times its scale.
    """
    train = run.settings.train
    assert isinstance(train, PPOTrainOptions)
    config = _config(run, train, learning_rate, "")

    identity = {
        "code": 1,
        "student": student.identity,
        **_learned_from(run, train, rewarding),
        "prompts": prompts.key,
        "ppo": identity_of(train, instead=INDIRECT),
        "prompts_per_rollout": config.prompts_per_rollout,
        "sampling": vars(config.sampling),
        "learning_rate": config.learning_rate,
        **run.sampled_by(student),
        "seed": run.settings.seed,
        **run.trained_in,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        with peak_memory() as memory:
            figures = _train(run, train, student, prompts, rewarding, learning_rate, partial)
        return {**figures, **memory}

    name = "on-policy distillation" if train.distils else f"PPO ({config.advantage})"
    what = f"{name} on {len(prompts)} prompts, {config.learning_rate:g}"
    output = run.stage("train", what, identity, make, every_rank=True)
    return model_of(output, student.loading), json.loads((output.path / "history.json").read_text())


def _train(
    run: Run,
    settings: PPOTrainOptions,
    student: Model,
    prompts: Rows,
    rewarding: Rewarding | None,
    learning_rate: float | None,
    partial: Partial,
) -> Mapping[str, Any]:
    run.hold_models()
    tokenizer = student.tokenizer()
    critic = None if rewarding is None else _critic(run, settings, student, rewarding)
    reference, loaded, served = None, 0, {}
    if settings.distils:
        reference, loaded, served = opened(run, settings, student)
    trainer = PPOTrainer(
        student.trainable(run.lora, run.settings.seed),
        _config(run, settings, learning_rate, str(partial.scratch / "checkpoints")),
        prompts.rows,
        tokenizer,
        _reward(run, settings, student, rewarding),
        run.sampler(),
        reference=reference,
        critic=critic,
        report_to=run.settings.report_to,
        loading=student.loading,
    )
    done = trainer.resume()
    with progress(len(trainer.rollouts), "iterations", done=done) as bar:
        trainer.on_iteration = lambda row: bar.advance(1, _told(row))
        trainer.train()
    if is_main_process():
        save_model(merged(trainer.policy), tokenizer, partial.path / "model")
        (partial.path / "history.json").write_text(json.dumps(trainer.history))
    trainer.accelerator.wait_for_everyone()
    # Policy, the sampler's copy, the reference, which adapters have inside them, and what rewards.
    references = loaded if settings.distils else run.lora is None
    return {
        "iterations": len(trainer.history),
        "steps": trainer.progress.steps,
        **_written(trainer.history),
        "models": 2 + references + (rewarding is not None) + (critic is not None),
        **_taken(trainer.history),
        **served,
    }


def _written(history: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Responses of all iterations, and their tokens, which `ppo_epochs` passes learn from."""
    tokens = sum(row["responses"] * row["response_tokens"] for row in history)
    return {"responses": int(sum(row["responses"] for row in history)), "tokens": round(tokens)}


def _taken(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What served teachers took in all iterations."""
    total: Counter[str] = Counter()
    for row in history:
        total.update({name: n for name, n in row.items() if name.startswith("teacher_")})
    return {name: n if name.endswith("dollars") else int(n) for name, n in total.items()}


def _told(row: Mapping[str, float]) -> str:
    reward = f"reward {row['score']:.3f}, " if "score" in row else ""
    return f"{reward}KL {row['kl']:.3f}, {row['response_tokens']:.0f} tokens"


@dataclass(frozen=True)
class VerifierReward:
    """What a verifier says of responses: the run's `score`, without a model in between."""

    verifier: Scorer
    access: TeacherAccess

    def __call__(self, groups: Sequence[Group]) -> list[list[float]]:
        """`[group][response]`; NaN where it has no verdict."""
        parts = score_groups(self.verifier, groups, self.access)
        scored: list[Any] = [group for part in parts for group in part]
        return [[response["score"] for response in group["responses"]] for group in scored]


def _verifier(run: Run) -> Scorer:
    """The run's scorer as a reward."""
    scorer = run.settings.scorer
    if not isinstance(scorer, Scorer) or not scorer.verifies:
        raise UserError(
            f"train.reward=score has one verifier reward what the policy writes, and score is "
            f"{scorer.name}: set score=verifier or score=demands, or train.reward=reward_model."
        )
    return scorer


def _reward(
    run: Run, settings: PPOTrainOptions, student: Model, rewarding: Rewarding | None
) -> Reward | None:
    if rewarding is not None:
        return ModelReward(run, rewarding.model, student)
    if settings.reward_coef == 0:
        return None
    return VerifierReward(_verifier(run), run.teacher_access(student))


def _learned_from(
    run: Run, settings: PPOTrainOptions, rewarding: Rewarding | None
) -> dict[str, Any]:
    """What an identity says of the reward and the teacher."""
    identity: dict[str, Any] = {}
    if rewarding is not None:
        identity |= {"reward_model": rewarding.model.identity, **read_in(rewarding.model)}
    elif settings.reward_coef > 0:
        identity["verifier"] = _verifier(run).identity
    if (settings.reward_coef > 0 and rewarding is None) or settings.missing_eos_penalty > 0:
        identity |= run.start.thoughts_identity
    if settings.distils:
        identity |= teachers_identity(run, settings)
    return identity


def _critic(run: Run, settings: PPOTrainOptions, student: Model, rewarding: Rewarding) -> Any:
    """A separate critic begins as the reward model, as in InstructGPT; it reads the same tokens."""
    if settings.advantage != "gae" or settings.critic == "head":
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
