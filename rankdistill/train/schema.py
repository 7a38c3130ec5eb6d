"""The keys of `train` and `reward`: names, types, ranges, and what they change of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import (
    above_zero,
    added,
    at_least,
    irrelevant,
    require,
    require_choice,
    within,
)
from rankdistill.optimiser import Optimiser
from rankdistill.schema import SamplingParameters

Layout = Enum("Layout", ["shared", "packed", "padded"])
ADVANTAGES = ("gae", "group", "teacher")
CRITICS = ("head", "separate")
CUTS = ("terminal", "bootstrap")
REWARDS = ("reward_model", "score")
REWARD_LOSSES = ("pairs", "plackett_luce")
SAMPLING_STRATEGIES = ("random", "group_by_cluster")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Optimiser):
    """Keys of `train=ranking`, which `conf/train/ranking.yaml` explains.

    Raises:
        UserError: A value is out of its range.
    """

    layout: Layout
    prompts_per_step: int
    learning_rate: float | None = None
    learning_rate_grid: list[float]
    learning_rate_scale: float
    sampling_strategy: str = added("random")

    group: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("train", self, 1, "prompts_per_step")
        require_choice("train.sampling_strategy", self.sampling_strategy, SAMPLING_STRATEGIES)
        above_zero("train", self, "learning_rate_scale")
        for rate in self.learning_rate_grid:
            require("a value of train.learning_rate_grid", rate, rate > 0, "above 0")


@dataclass(frozen=True, kw_only=True)
class PPOMethod(Optimiser):
    """What PPO does with a rollout.

    Args:
        ppo_epochs: Passes over a rollout.
        prompts_per_step: Prompts of an optimiser step (a minibatch), over all processes.
        advantage: `gae` with a critic, or without one `group`: the return minus the mean of the
            other responses to the prompt (RLOO), or `teacher`: on-policy distillation, see
            `Experience`.
        gamma: Discount per token, of `gae` and `teacher`.
        lam: Of `gae`.
        whiten_advantages: Give the rollout's advantages mean 0 and variance 1.
        whiten_rewards: Give the rollout's token rewards variance 1, and leave their mean.
        clip: Of the probability ratio.
        value_clip: Of the critic's change; None does not clip.
        value_weight: Of the critic's loss.
        reward_coef: Weight of the score. 0, which `teacher` alone allows: nothing is scored.
        kl_coef: Nats of KL to the reference cost this much reward; the initial one if adaptive.
        kl_target: Nats per response that the coefficient is steered to; None keeps it fixed.
        kl_horizon: Responses over which it is steered (Ziegler et al. 2019).
        cut: What a response that the length limit cut does. `terminal`: it is scored as it is and
            ends there. `bootstrap`: it gets no score, and goes on with the critic's value.
        missing_eos_penalty: Subtracted from the score of a cut response, and of one that ended
            before its thought did.
        stop_kl: Nats per token between the policies before and after an update; beyond, the rest of
            the iteration's updates is left out. None never does.
        max_kl: Nats per token to the reference; beyond, the run stops. None never does.
        teacher_column: Of the prompts, by whose value one of several teachers is chosen.
        divergence: Of `teacher`: learn this one, as `divergence_named` takes it, between student
            and teacher at each token, times `kl_coef`, in the place of the token's advantage.
        top_k: Of `divergence`: the teacher's likeliest tokens that are told apart; the rest is one
            more outcome.
        sampler_tolerance: Nats per token by which sampler and trainer may differ on average about
            the same response, 6 times as much at the 99th percentile; beyond, the run stops. None:
            by the precisions of the two.

    `epochs` are passes over the prompts; `warmup_ratio` and `save_steps` count iterations.

    Raises:
        UserError: A value is out of its range.
    """

    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    save_steps: int = irrelevant(1)
    ppo_epochs: int = 4
    prompts_per_step: int = 32
    advantage: str = "gae"
    gamma: float = 1.0
    lam: float = 0.95
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    reward_coef: float = added(1.0)
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    cut: str = "terminal"
    missing_eos_penalty: float = 0.0
    stop_kl: float | None = None
    max_kl: float | None = irrelevant(1.0)
    sampler_tolerance: float | None = irrelevant(None)
    teacher_column: str | None = added(None)
    divergence: str | None = added(None)
    top_k: int = added(16)

    group: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("train.advantage", self.advantage, ADVANTAGES)
        require_choice("train.cut", self.cut, CUTS)
        at_least("train", self, 1, "ppo_epochs", "prompts_per_step", "kl_horizon", "top_k")
        above_zero("train", self, "clip")
        for key in ("value_clip", "kl_target", "stop_kl", "max_kl", "sampler_tolerance"):
            value = getattr(self, key)
            require(f"train.{key}", value, value is None or value > 0, "above 0, or null")
        at_least("train", self, 0, "value_weight", "reward_coef", "kl_coef", "missing_eos_penalty")
        within("train", self, "[0, 1]", "gamma", "lam")
        if self.advantage != "gae" and self.cut == "bootstrap":
            raise UserError(
                "train.cut=bootstrap goes on with the critic's value, and train.advantage="
                f"{self.advantage} has no critic: take train.cut=terminal."
            )
        if self.advantage != "teacher" and self.divergence is not None:
            raise UserError(
                f"train.divergence={self.divergence} is to a teacher, and train.advantage="
                f"{self.advantage} has none: take train=distillation, or set it to null."
            )
        if self.advantage != "teacher" and self.reward_coef == 0:
            raise UserError(
                "train.reward_coef is 0, which leaves nothing to learn but the KL: give more than "
                "0, or train=distillation, which learns from the teacher."
            )
        if self.advantage == "teacher" and self.kl_coef == 0:
            raise UserError(
                "train.kl_coef is 0, which leaves the teacher nothing to say: give more than 0, or "
                "train=ppo, which learns from a reward alone."
            )

    def check_rollouts(self, sampling: SamplingParameters) -> None:
        """UserError: nothing can be learned from what is sampled so."""
        if sampling.top_p < 1 or sampling.top_k > 0:
            raise UserError(
                f"PPO's rollouts were asked for with top_p={sampling.top_p}, top_k="
                f"{sampling.top_k}, but the ratio and the KL are those of the whole distribution: "
                "sample them with top_p=1 and top_k=0."
            )
        if sampling.temperature <= 0:
            raise UserError("PPO's rollouts need a temperature above 0: there is nothing to learn.")
        compares = self.advantage != "gae" and self.reward_coef > 0
        if compares and sampling.responses_per_prompt < 2:
            raise UserError(
                f"train.advantage={self.advantage} compares the rewards of the responses to a "
                "prompt: give train.rollout.responses_per_prompt at least 2."
            )


@dataclass(frozen=True)
class RolloutOptions(SamplingParameters):
    """What the policy writes in an iteration."""

    GROUP: ClassVar[str] = "train.rollout"

    prompts: int

    def __post_init__(self) -> None:
        above_zero("train.rollout", self, "temperature")
        super().__post_init__()
        at_least("train.rollout", self, 1, "prompts")


@dataclass(frozen=True, kw_only=True)
class PPOTrainOptions(PPOMethod, TrainOptions):
    """Keys of `train=ppo` and `distillation`, which `conf/train/ppo.yaml` explains."""

    rollout: RolloutOptions
    critic: str
    reward: str
    teachers: Any = None
    """None, a name, or by value of `teacher_column` names or keys of an endpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rollouts(self.rollout)
        _check_teachers(self)
        require_choice("train.critic", self.critic, CRITICS)
        require_choice("train.reward", self.reward, REWARDS)
        if self.advantage == "gae" and self.critic == "separate" and not self.learns_reward:
            raise UserError(
                "train.critic=separate begins as the reward model, and with train.reward=score "
                "there is none: take train.critic=head."
            )

    @property
    def distils(self) -> bool:
        """Whether the teacher says what a token is worth."""
        return self.advantage == "teacher"

    @property
    def named_teachers(self) -> dict[str, Any]:
        """Who teaches, by value of `teacher_column`; under "" where there is one teacher.

        A name is `teacher`, `endpoint` or a path; what is no name has keys of an endpoint.
        """
        if isinstance(self.teachers, Mapping):
            return {str(value): named for value, named in self.teachers.items()}
        return {"": self.teachers or "teacher"}

    @property
    def learns_reward(self) -> bool:
        """Whether the reward is a model's that learns the ranking."""
        return self.reward_coef > 0 and self.reward == "reward_model"


def _check_teachers(train: PPOTrainOptions) -> None:
    teachers, said = train.teachers, "as in 'train.teachers={math: a/model, code: endpoint}'"
    if teachers is None and train.teacher_column is None:
        return
    if not train.distils:
        raise UserError(
            "train.teachers and train.teacher_column are of train=distillation: set them to null."
        )
    several = isinstance(teachers, Mapping)
    if several != (train.teacher_column is not None):
        raise UserError(
            "Several teachers are told apart by a column of the prompts: give train.teachers by "
            f"the values of train.teacher_column, {said} train.teacher_column=topic, or neither."
        )
    named = list(teachers.values()) if several else [teachers]
    if not named or not all(
        (isinstance(name, str) and name.strip()) or (several and isinstance(name, Mapping))
        for name in named
    ):
        raise UserError(
            f"train.teachers is {teachers}: give teacher, endpoint or a model, or these by the "
            f"values of train.teacher_column, {said}."
        )


@dataclass(frozen=True)
class RewardLoss:
    """Which loss of `rankdistill.train.reward.ranking_loss` is taken; its arguments.

    Raises:
        UserError: A value is out of its range.
    """

    loss: str = "pairs"
    margin: float = 0.0
    centering: float = 0.0

    def __post_init__(self) -> None:
        require_choice("reward.loss", self.loss, REWARD_LOSSES)
        at_least("reward", self, 0, "margin", "centering")
        if self.margin and self.loss != "pairs":
            raise UserError(f"reward.margin needs reward.loss=pairs; {self.loss} has no margin.")


@dataclass(frozen=True, kw_only=True)
class RewardOptions(RewardLoss, Optimiser):
    """Keys of `reward`, which `conf/reward/ranking.yaml` explains.

    Raises:
        UserError: A value is out of its range.
    """

    learning_rate: float = 9e-6
    # The model itself is hashed, by its own key.
    backbone: str
    # Both say what is done with the reward model.
    only: bool = irrelevant()
    min_accuracy: float = irrelevant()
    prompts_per_step: int

    group: ClassVar[str] = "reward"

    def __post_init__(self) -> None:
        RewardLoss.__post_init__(self)
        Optimiser.__post_init__(self)
        at_least("reward", self, 1, "prompts_per_step")
        within("reward", self, "[0, 1]", "min_accuracy")
